from .classifier import Classifier as Classifier

__version__: str
