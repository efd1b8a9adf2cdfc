"""What holds for every test: models of whoever runs them are not looked at."""

import os
import tempfile

os.environ["MUSEV_MODELS"] = os.path.join(tempfile.gettempdir(), "musev-tests-have-no-models")
