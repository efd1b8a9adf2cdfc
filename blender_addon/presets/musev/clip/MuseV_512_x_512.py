import bpy

scene = getattr(bpy.context.workspace, "sequencer_scene", bpy.context.scene)
settings = scene.musev

settings.draft.use = False
settings.width = 512
settings.height = 512
settings.steps = 30
settings.guidance_scale = 3.5
settings.generate_at = "MODEL"
settings.between = "flow"
settings.context_frames = 12
settings.context_overlap = 4
