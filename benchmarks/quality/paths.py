"""Where things lie: the working directory (not in the repository) and the repository's own fixtures."""

import os
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
FIXTURES = REPOSITORY / "fixtures" / "models"
WORK = Path(os.environ.get("QUALITY_WORK", HERE / "work"))
CORPUS = WORK / "corpus"
RESULTS = HERE / "results"
