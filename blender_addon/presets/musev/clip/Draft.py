import bpy

scene = getattr(bpy.context.workspace, "sequencer_scene", bpy.context.scene)
settings = scene.musev

settings.draft.use = True
settings.draft.share = 0.5
settings.draft.steps = 4
settings.generate_at = "MODEL"
settings.between = "held"
