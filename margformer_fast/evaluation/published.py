"""The published results that ours stand beside, all on real SDSS DR16 objects."""

from __future__ import annotations

from dataclasses import dataclass

MARGNET = "Chaini et al. 2023, MNRAS 518, 3123 (MargNet)"
MARGNET_NOTEBOOK = "Chaini et al. 2023 (MargNet), printed by the notebooks of sidchaini/MargNet, fe1b64d"
MM_VIT = "Bhavanam et al. 2024, Ap&SS 369, 92 (multimodal ViT), as restated in the MargFormer paper draft"
MARGFORMER = "MargFormer, README of srinadh99/AstroFormer, 74fffb8"
MARGFORMER_NOTEBOOK = "MargFormer, printed by the notebooks of srinadh99/AstroFormer, 74fffb8"
SIMCLR = "SimCLR, printed by the notebooks of srinadh99/Contrastive-Learning-for-Astronomy-, 3320716"
RESTATED = f"{MARGNET}, as restated in the MargFormer paper draft"


@dataclass(frozen=True)
class PublishedResult:
    """One published result.

    Parameters
    ----------
    experiment : int
        1, 2 or 3.
    task : str
        ``"sg"`` or ``"sgq"``.
    model : str
        Name of the model.
    accuracy, precision, recall : float
        In percent; precision and recall are unweighted means over classes.
    source : str
        Citation.
    f1 : float, optional
        Unweighted mean over classes, in percent.
    spread : float, optional
        The stated spread over runs, in percentage points, common to the numbers.
    confusion : tuple of tuple of int, optional
        Row = true class, in label order.
    headline : bool
        Whether it is the number its authors quote for the model.
    note : str
        What must be known to compare with it.
    """

    experiment: int
    task: str
    model: str
    accuracy: float
    precision: float
    recall: float
    source: str
    f1: float | None = None
    spread: float | None = None
    confusion: tuple[tuple[int, ...], ...] | None = None
    headline: bool = False
    note: str = ""


_LAST_EPOCH = (
    "Weights of the last fine-tuning epoch, not of the best one; Experiment 3 uses those of the best."
)
_WIDER_SPLIT = "Tested on other objects than MargNet: split 75 / 12.5 / 12.5, not 80 / 10 / 10."
_NARROW_SPLIT = "Split 80 / 10 / 10."
_LEAK = "31.5 % of the test objects are among the training and validation objects of Experiment 1."
_PROBE = "Probe trained on validation labels only; photometry enters both views of the contrastive stage."


def _quoted(
    experiment: int,
    task: str,
    model: str,
    source: str,
    spread: float,
    accuracy: float,
    precision: float,
    recall: float,
    note: str = "",
) -> PublishedResult:
    return PublishedResult(
        experiment, task, model, accuracy, precision, recall, source, spread=spread, headline=True, note=note
    )


def _printed(
    experiment: int,
    task: str,
    model: str,
    source: str,
    numbers: tuple[float, float, float, float],
    confusion: tuple[tuple[int, ...], ...],
    note: str = "",
    *,
    spread: float | None = None,
    headline: bool = False,
) -> PublishedResult:
    accuracy, precision, recall, f1 = numbers
    return PublishedResult(
        experiment, task, model, accuracy, precision, recall, source, f1, spread, confusion, headline, note
    )


_K128, _K64 = "MargFormer K=128", "MargFormer K=64"
_DNN, _CNN, _BOTH = "MargNet DNN (features)", "MargNet CNN (images)", "MargNet ensemble"

# fmt: off
_RESULTS = (
    # Experiment 1, star / galaxy
    _quoted(1, "sg", "MargNet", RESTATED, 0.1, 98.1, 98.1, 98.1),
    _quoted(1, "sg", "Multimodal ViT", MM_VIT, 0.1, 98.1, 98.1, 98.1),
    _quoted(1, "sg", "MargFormer", MARGFORMER, 0.1, 98.1, 98.1, 98.1),
    _printed(1, "sg", "SimCLR MargFormer", SIMCLR, (97.725, 97.730, 97.723, 97.725),
             ((9679, 269), (186, 9866)), _LAST_EPOCH, spread=0.1, headline=True),
    _printed(1, "sg", _DNN, MARGNET_NOTEBOOK, (97.850, 97.850, 97.851, 97.850), ((9750, 198), (232, 9820))),
    _printed(1, "sg", _CNN, MARGNET_NOTEBOOK, (97.365, 97.371, 97.363, 97.365), ((9639, 309), (218, 9834))),
    _printed(1, "sg", _BOTH, MARGNET_NOTEBOOK, (98.130, 98.131, 98.129, 98.130), ((9750, 198), (176, 9876))),
    _printed(1, "sg", _K128, MARGFORMER_NOTEBOOK, (98.115, 98.115, 98.116, 98.115),
             ((9778, 170), (207, 9845))),
    _printed(1, "sg", _K64, MARGFORMER_NOTEBOOK, (98.135, 98.139, 98.133, 98.135),
             ((9728, 220), (153, 9899))),
    # Experiment 1, star / galaxy / quasar
    _quoted(1, "sgq", "MargNet", RESTATED, 0.2, 93.3, 93.3, 93.3),
    _quoted(1, "sgq", "Multimodal ViT", MM_VIT, 0.2, 93.2, 93.2, 93.2),
    _quoted(1, "sgq", "MargFormer", MARGFORMER, 0.1, 93.2, 93.3, 93.2,
            "The paper draft has 93.1 +- 0.2 in all three."),
    _printed(1, "sgq", "SimCLR LViT, frozen + probe", SIMCLR, (90.007, 90.073, 90.003, 90.022),
             ((9334, 483, 203), (452, 8868, 681), (172, 1007, 8800)), _PROBE, headline=True),
    _printed(1, "sgq", _DNN, MARGNET_NOTEBOOK, (92.967, 93.019, 92.965, 92.979),
             ((9490, 382, 148), (296, 9246, 459), (126, 699, 9154))),
    _printed(1, "sgq", _CNN, MARGNET_NOTEBOOK, (91.600, 91.670, 91.598, 91.618),
             ((9305, 498, 217), (353, 9135, 513), (184, 755, 9040))),
    _printed(1, "sgq", _BOTH, MARGNET_NOTEBOOK, (93.323, 93.332, 93.322, 93.326),
             ((9553, 317, 150), (291, 9170, 540), (120, 585, 9274))),
    _printed(1, "sgq", _K128, MARGFORMER_NOTEBOOK, (93.083, 93.089, 93.082, 93.085),
             ((9544, 321, 155), (334, 9121, 546), (104, 615, 9260))),
    _printed(1, "sgq", _K64, MARGFORMER_NOTEBOOK, (93.060, 93.139, 93.057, 93.072),
             ((9546, 341, 133), (330, 9297, 374), (117, 787, 9075))),
    # Experiment 2, star / galaxy
    _quoted(2, "sg", "MargNet", RESTATED, 0.1, 96.9, 96.9, 96.9, _NARROW_SPLIT),
    _quoted(2, "sg", "Multimodal ViT", MM_VIT, 0.1, 96.9, 96.9, 96.9),
    _quoted(2, "sg", "MargFormer", MARGFORMER, 0.1, 97.1, 97.1, 97.1, _WIDER_SPLIT),
    _printed(2, "sg", _DNN, MARGNET_NOTEBOOK, (96.070, 96.076, 96.071, 96.070),
             ((4827, 167), (226, 4780)), _NARROW_SPLIT),
    _printed(2, "sg", _CNN, MARGNET_NOTEBOOK, (95.220, 95.223, 95.220, 95.220),
             ((4735, 259), (219, 4787)), _NARROW_SPLIT),
    _printed(2, "sg", _BOTH, MARGNET_NOTEBOOK, (96.930, 96.931, 96.930, 96.930),
             ((4833, 161), (146, 4860)), _NARROW_SPLIT),
    _printed(2, "sg", _K128, MARGFORMER_NOTEBOOK, (97.144, 97.144, 97.145, 97.144),
             ((6049, 167), (190, 6094)), _WIDER_SPLIT),
    _printed(2, "sg", _K64, MARGFORMER_NOTEBOOK, (96.880, 96.887, 96.879, 96.880),
             ((4808, 186), (126, 4880)), _NARROW_SPLIT),
    # Experiment 2, star / galaxy / quasar
    _quoted(2, "sgq", "MargNet", RESTATED, 0.2, 86.7, 86.8, 86.7, _NARROW_SPLIT),
    _quoted(2, "sgq", "Multimodal ViT", MM_VIT, 0.2, 86.3, 86.2, 86.3),
    _quoted(2, "sgq", "MargFormer", MARGFORMER, 0.1, 86.7, 86.8, 86.7,
            f"{_WIDER_SPLIT} The paper draft has 86.6, 86.7, 86.6 +- 0.2."),
    _printed(2, "sgq", _DNN, MARGNET_NOTEBOOK, (86.027, 86.148, 86.091, 86.099),
             ((4589, 242, 79), (164, 4227, 668), (159, 784, 4088)), _NARROW_SPLIT),
    _printed(2, "sgq", _CNN, MARGNET_NOTEBOOK, (84.187, 84.460, 84.232, 84.322),
             ((4390, 309, 211), (179, 4155, 725), (142, 806, 4083)), _NARROW_SPLIT),
    _printed(2, "sgq", _BOTH, MARGNET_NOTEBOOK, (86.667, 86.815, 86.728, 86.768),
             ((4585, 205, 120), (144, 4181, 734), (92, 705, 4234)), _NARROW_SPLIT),
    _printed(2, "sgq", _K128, MARGFORMER_NOTEBOOK, (86.624, 86.745, 86.666, 86.688),
             ((5790, 251, 137), (208, 5272, 792), (126, 994, 5180)), _WIDER_SPLIT),
    _printed(2, "sgq", _K64, MARGFORMER_NOTEBOOK, (86.500, 86.578, 86.568, 86.568),
             ((4622, 200, 88), (188, 4193, 678), (114, 757, 4160)), _NARROW_SPLIT),
    # Experiment 3, star / galaxy
    _quoted(3, "sg", "MargNet", RESTATED, 0.1, 92.0, 92.7, 92.0),
    _quoted(3, "sg", "Multimodal ViT", MM_VIT, 0.1, 91.8, 92.5, 91.8),
    _quoted(3, "sg", "MargFormer", MARGFORMER, 0.1, 92.7, 93.2, 92.7),
    _printed(3, "sg", "SimCLR MargFormer", SIMCLR, (91.158, 92.048, 91.158, 91.111),
             ((9362, 149), (1533, 7978)), spread=0.1, headline=True),
    _printed(3, "sg", _DNN, MARGNET_NOTEBOOK, (91.583, 92.399, 91.583, 91.543), ((9370, 141), (1460, 8051))),
    _printed(3, "sg", _CNN, MARGNET_NOTEBOOK, (89.297, 90.389, 89.297, 89.224), ((9275, 236), (1800, 7711))),
    _printed(3, "sg", _BOTH, MARGNET_NOTEBOOK, (91.951, 92.692, 91.951, 91.916), ((9372, 139), (1392, 8119))),
    _printed(3, "sg", _K128, MARGFORMER_NOTEBOOK, (92.719, 93.259, 92.719, 92.696),
             ((9350, 161), (1224, 8287))),
    _printed(3, "sg", _K64, MARGFORMER_NOTEBOOK, (93.213, 93.653, 93.213, 93.196),
             ((9343, 168), (1123, 8388))),
    # Experiment 3, star / galaxy / quasar
    _quoted(3, "sgq", "MargNet", RESTATED, 0.2, 73.4, 76.5, 73.4, _LEAK),
    _quoted(3, "sgq", "Multimodal ViT", MM_VIT, 0.2, 71.8, 75.4, 71.8),
    _quoted(3, "sgq", "MargFormer", MARGFORMER, 0.1, 75.2, 77.9, 75.3,
            f"{_LEAK} The paper draft has 75.2, 77.8, 75.2 +- 0.2."),
    _printed(3, "sgq", _DNN, MARGNET_NOTEBOOK, (73.055, 76.321, 73.054, 72.661),
             ((9104, 353, 54), (3537, 5739, 234), (1029, 2481, 6001)), _LEAK),
    _printed(3, "sgq", _CNN, MARGNET_NOTEBOOK, (69.438, 73.881, 69.438, 68.782),
             ((8955, 438, 118), (3513, 5743, 254), (1875, 2522, 5114)), _LEAK),
    _printed(3, "sgq", _BOTH, MARGNET_NOTEBOOK, (73.353, 76.539, 73.352, 72.920),
             ((9170, 288, 53), (3616, 5608, 286), (1112, 2248, 6151)), _LEAK),
    _printed(3, "sgq", _K128, MARGFORMER_NOTEBOOK, (75.217, 77.827, 75.217, 74.876),
             ((9151, 311, 49), (3238, 5944, 328), (989, 2156, 6366)), _LEAK),
    _printed(3, "sgq", _K64, MARGFORMER_NOTEBOOK, (73.118, 76.607, 73.118, 72.660),
             ((9156, 322, 33), (3353, 5927, 230), (1159, 2573, 5779)), _LEAK),
)
# fmt: on


def published(experiment: int, task: str) -> tuple[PublishedResult, ...]:
    """Return the published results of an experiment and task, those their authors quote first.

    Empty if nothing is published for it.
    """
    return tuple(result for result in _RESULTS if (result.experiment, result.task) == (experiment, task))
