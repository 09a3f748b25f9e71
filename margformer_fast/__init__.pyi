from .catalogue.dataframes import classify_frame as classify_frame
from .catalogue.dataframes import classify_meta as classify_meta
from .classifier import Classifier as Classifier

__version__: str
