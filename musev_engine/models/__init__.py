"""The networks and nothing else. State-dict keys are the published checkpoints' own."""
