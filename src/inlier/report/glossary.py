"""The terms that a report uses, in a sentence or two each. Changed and foreign images are the positive class."""

__all__ = ["GLOSSARY"]

GLOSSARY = {
    "changed pixels": (
        "the share of pixels that the network answers differently than for the unchanged image; for changes that "
        "move pixels, than the answer moved alike. It is the damage done, whether or not there are labels."
    ),
    "false alarm": (
        "an unchanged image that is flagged. The nominal rate is the one that was asked for; the observed rate is "
        "what was counted on these images."
    ),
    "flagged": (
        "the monitor's score lies above its threshold. There is one threshold for each nominal rate, set on clean "
        "images and used for everything."
    ),
    "interval": (
        "a 95 % confidence interval: how far the observed number may be from the one that far more such images "
        "would give. Those of rates take images as independent, which neighbouring frames of a video are not."
    ),
    "key": (
        "the seed of what is random in a monitor, such as which activations it looks at. Several keys show how far "
        "results hang on that."
    ),
    "AUROC": (
        "the probability that a changed image scores higher than an unchanged one. Changed (or foreign) images are "
        "the positive class. 0.5 is chance, 1 is perfect; no threshold is involved."
    ),
    "AUPR": (
        "the area under the curve of precision over recall, changed images being the positive class. It depends on "
        "how many images there are of either kind."
    ),
    "FPR95": (
        "the share of unchanged images that would be flagged if the threshold were such that 95 % of the changed "
        "images, the positive class, are. Lower is better."
    ),
    "p-value": ("the share of clean images that are at least as unusual as this one; alarms are small p-values."),
    "AAcc": ("attack accuracy: the share of pixels whose predicted class changed, mean over images."),
    "AIoU": (
        "one minus the mean intersection over union of the predictions before and after the change; 0 is no change."
    ),
    "mIoU": ("mean intersection over union of prediction and labels: how good the network is."),
    "eps": ("the largest change of any channel of any pixel that an attack may make, in grey levels from 0 to 1."),
    "ablation": ("monitors that differ from one another in a single setting."),
}
