"""The models that the engine has: told, fetched, added, and the LoRAs of a clip."""
