import bpy

scene = getattr(bpy.context.workspace, "sequencer_scene", bpy.context.scene)
settings = scene.musev

settings.draft.use = False
settings.model = "mini"
settings.width = 128
settings.height = 128
settings.steps = 10
settings.guidance_scale = 1.0
settings.generate_at = "EVERY"
settings.context_frames = 12
settings.context_overlap = 4
