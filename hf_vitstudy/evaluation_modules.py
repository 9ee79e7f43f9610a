"""The metrics as modules of the `evaluate` library; they come with the package and ask nothing of the network.

    import evaluate
    from hf_vitstudy.evaluation_modules import Accuracy, ExpectedCalibrationError, NegativeLogLikelihood, TopKAccuracy

    scores = evaluate.combine([Accuracy(), TopKAccuracy(), NegativeLogLikelihood(), ExpectedCalibrationError()])
    for images, labels in batches:
        scores.add_batch(predictions=model(images).logits, references=labels)
    scores.compute()  # {'accuracy': ..., 'top5_accuracy': ..., 'nll': ..., 'ece': ...}

The formulas are those of `metrics`; only the calling convention is `evaluate`'s. Values do not depend on the split over batches
or, with ``num_process`` and ``process_id``, over processes. `evaluate` keeps all input in a file until `compute`, 8 bytes
per image and class and metric: 400 MB for ImageNet's validation images. Where that matters, call `metrics` directly.

`CKA` compares the features of two networks. `write_module` makes of any of them a Space, from which `evaluate.load` takes it.

Importing this file imports `evaluate`, and with it torch and transformers: about 10 s. Nothing else in the package does.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
from datasets import Features, Sequence, Value

from . import __version__, metrics
from .comparison import CrossKernels
from .errors import StudyError, nearest_name
from .markdown import Markdown, environment
from .stats import jackknife


CLASS = Value("int64")
LOGITS = Sequence(Value("float64"))
FEATURES = Sequence(Value("float64"))  # of one image

LOGITS_INPUTS = """
Args:
    predictions: logits, (image, class); of log-probabilities the result is the same. Arrays, lists or tensors.
    references: labels, (image,), integers from 0 on.
"""
CLASS_INPUTS = """
Args:
    predictions: predicted classes, (image,) integers; or logits, (image, class), of which the largest counts.
    references: labels, (image,), integers from 0 on.
"""
PAIR_INPUTS = """
Args:
    predictions1, predictions2: classes that two classifiers predict for the same images, (image,) integers; or logits,
        (image, class), of which the largest counts.
"""

FEATURE_INPUTS = """
Args:
    features1, features2: what two networks, or two layers, make of the same images: (image, ...), axes after the first are
        one vector. The two may be of different size. Arrays, lists or tensors.
"""

KORNBLITH = """@inproceedings{kornblith2019similarity,
  title = {Similarity of Neural Network Representations Revisited},
  author = {Kornblith, Simon and Norouzi, Mohammad and Lee, Honglak and Hinton, Geoffrey},
  booktitle = {International Conference on Machine Learning},
  year = {2019}
}"""
GUO = """@inproceedings{guo2017calibration,
  title = {On Calibration of Modern Neural Networks},
  author = {Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.},
  booktitle = {International Conference on Machine Learning},
  year = {2017}
}"""
MCNEMAR = """@article{mcnemar1947note,
  title = {Note on the sampling error of the difference between correlated proportions or percentages},
  author = {McNemar, Quinn},
  journal = {Psychometrika},
  volume = {12},
  pages = {153--157},
  year = {1947}
}"""
COHEN = """@article{cohen1960coefficient,
  title = {A coefficient of agreement for nominal scales},
  author = {Cohen, Jacob},
  journal = {Educational and Psychological Measurement},
  volume = {20},
  pages = {37--46},
  year = {1960}
}"""
PARK = """@inproceedings{park2022how,
  title = {How Do Vision Transformers Work?},
  author = {Park, Namuk and Kim, Songkuk},
  booktitle = {International Conference on Learning Representations},
  year = {2022}
}"""
DOSOVITSKIY = """@inproceedings{dosovitskiy2021image,
  title = {An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale},
  author = {Dosovitskiy, Alexey and Beyer, Lucas and Kolesnikov, Alexander and Weissenborn, Dirk and Zhai, Xiaohua and
    Unterthiner, Thomas and Dehghani, Mostafa and Minderer, Matthias and Heigold, Georg and Gelly, Sylvain and
    Uszkoreit, Jakob and Houlsby, Neil},
  booktitle = {International Conference on Learning Representations},
  year = {2021}
}"""


class _OfImages:
    """What all modules here share: input is checked batch by batch, and leaves the cache as it came, in float64."""

    features: Features
    _feature_names: Any

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add the images of a batch.

        Raises:
            StudyError: inputs are missing, or are not as described under Args; nothing is added then.
        """
        given = {"predictions": predictions, "references": references} | kwargs
        given = {name: values for name, values in given.items() if values is not None}
        names = list(self._feature_names())
        if set(given) != set(names):
            raise StudyError(f"expected {', '.join(names)}, got {', '.join(given) or 'nothing'}")
        checked = {name: _checked(given[name], self.features[name], name) for name in names}
        if len({len(values) for values in checked.values()}) > 1:
            lengths = ", ".join(f"{len(values)} {name}" for name, values in checked.items())
            raise StudyError(f"expected values of the same images, got {lengths}")
        if self.features.get("predictions") == LOGITS:
            metrics.check(checked["predictions"], checked["references"])
        super().add_batch(**checked)  # type: ignore[misc]

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add one image."""
        given = {"predictions": prediction, "references": reference} | kwargs
        self.add_batch(**{name: [value] for name, value in given.items() if value is not None})


def _checked(values: Any, feature: Any, name: str) -> np.ndarray:
    """Classes (image,), logits (image, class) or features (image, feature); where classes are wanted, logits will do."""
    if name.startswith("features"):
        return _features(values, name)
    if feature == LOGITS:
        return metrics.check_logits(values)
    found = metrics.to_numpy(values, name)
    if found.ndim == 2 and name != "references":
        found = metrics.check_logits(found).argmax(1)
    found = metrics.classes_of(found, name)
    if name == "references" and (found < 0).any():
        row = int((found < 0).argmax())
        raise StudyError(f"the label of image {row} is {found[row]}, expected 0 or more; leave out unlabelled images")
    return found


def _features(values: Any, name: str) -> np.ndarray:
    """(image, feature) float64."""
    found = metrics.to_numpy(values, name)
    if found.ndim < 2 or not found.size or found.dtype.kind not in "fiu":
        raise StudyError(f"{name} must be numbers (image, ...) of at least one image, got {found.dtype} {found.shape}")
    found = found.reshape(len(found), -1).astype(np.float64)
    if not np.isfinite(found).all():
        raise StudyError(
            f"{name} of image {int((~np.isfinite(found)).any(1).argmax())} are not finite; look at the network"
        )
    return found


def _array(column: Any, what: str = "logits of the same classes") -> np.ndarray:
    """A column of the cache, (image,) or (image, class).

    Raises:
        StudyError: batches were of different numbers of classes or features.
    """
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    if not hasattr(chunks[0], "value_lengths"):
        return np.concatenate([chunk.to_numpy() for chunk in chunks])
    lengths = sorted({int(n) for chunk in chunks for n in np.unique(chunk.value_lengths().to_numpy())})
    if len(lengths) > 1:
        raise StudyError(f"every batch must have {what}, got {lengths} of them")
    return np.concatenate([chunk.flatten().to_numpy() for chunk in chunks]).reshape(-1, lengths[0])


def _info(kind: type, features: dict[str, Any], **texts: Any) -> Any:
    info = kind(features=Features(features), license="Apache-2.0", **texts)
    # as Arrow holds it: "numpy" would round to float32, and the default makes a Python object of every logit. The
    # constructor takes a format for single values only.
    info.format = "arrow"
    return info


# -------------------------------------------------------------------------------------------------- one classifier


class Accuracy(_OfImages, evaluate.Metric):
    """Share of images whose predicted class is the label: ``accuracy``."""

    def _info(self) -> Any:
        return _info(
            evaluate.MetricInfo,
            {"predictions": CLASS, "references": CLASS},
            description="Share of images whose predicted class is the label. Takes classes, or logits as the other metrics do.",
            citation=DOSOVITSKIY,
            inputs_description=CLASS_INPUTS + "Returns:\n    accuracy: from 0 to 1.\n",
            reference_urls=["https://arxiv.org/abs/2010.11929"],
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"accuracy": metrics.mean(_array(predictions) == _array(references))}


class TopKAccuracy(_OfImages, evaluate.Metric):
    """Share of images whose label is among the `k` largest logits: ``top5_accuracy``, or of another k.

    `k` is given here, where `evaluate.combine` leaves it alone, or to `compute`.
    """

    def __init__(self, *args: Any, k: int = 5, **kwargs: Any) -> None:
        self.k = k
        super().__init__(*args, **kwargs)

    def _info(self) -> Any:
        return _info(
            evaluate.MetricInfo,
            {"predictions": LOGITS, "references": CLASS},
            description="Share of images whose label is among the k largest logits. Of equal logits the one of the smaller "
            "class index counts as larger.",
            citation=DOSOVITSKIY,
            inputs_description=LOGITS_INPUTS
            + "    k: how many of the largest logits count; 5 by default.\nReturns:\n    top{k}_accuracy: from 0 to 1.\n",
            reference_urls=["https://arxiv.org/abs/2010.11929"],
        )

    def _compute(self, predictions: Any, references: Any, k: int | None = None) -> dict[str, float]:
        k = self.k if k is None else k
        return {f"top{k}_accuracy": metrics.mean(metrics.top_k(_array(predictions), _array(references), k))}


class NegativeLogLikelihood(_OfImages, evaluate.Metric):
    """Mean negative log likelihood of the labels under the softmax of the logits: ``nll``, in nat."""

    def _info(self) -> Any:
        return _info(
            evaluate.MetricInfo,
            {"predictions": LOGITS, "references": CLASS},
            description="Mean over images of minus the logarithm of the label's softmax probability, in nat. The same as the "
            "cross-entropy without label smoothing.",
            citation=PARK,
            inputs_description=LOGITS_INPUTS + "Returns:\n    nll: in nat, from 0 on.\n",
            reference_urls=["https://arxiv.org/abs/2202.06709"],
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"nll": metrics.mean(metrics.image_scores(_array(predictions), _array(references))["nll"])}


class ExpectedCalibrationError(_OfImages, evaluate.Metric):
    """How far confidence is from accuracy: ``ece``, from 0 to 1.

    `bins` is given here, where `evaluate.combine` leaves it alone, or to `compute`.
    """

    def __init__(self, *args: Any, bins: int = metrics.BINS, **kwargs: Any) -> None:
        self.bins = bins
        super().__init__(*args, **kwargs)

    def _info(self) -> Any:
        return _info(
            evaluate.MetricInfo,
            {"predictions": LOGITS, "references": CLASS},
            description="Mean distance of accuracy from confidence (the largest softmax probability) in bins of equal width, "
            "open on the left and closed on the right, each weighted by its images.",
            citation=GUO,
            inputs_description=LOGITS_INPUTS
            + f"    bins: number of bins; {metrics.BINS} by default.\nReturns:\n    ece: from 0 to 1.\n",
            reference_urls=["https://arxiv.org/abs/1706.04599"],
        )

    def _compute(self, predictions: Any, references: Any, bins: int | None = None) -> dict[str, float]:
        scores = metrics.image_scores(_array(predictions), _array(references))
        bins = self.bins if bins is None else bins
        return {"ece": metrics.calibration_error(scores["correct"], scores["confidence"], bins=bins)}


# ------------------------------------------------------------------------------------------------- two classifiers


class McNemar(_OfImages, evaluate.Comparison):
    """Do two classifiers differ in accuracy on the same images? See `metrics.mcnemar`."""

    def _info(self) -> Any:
        return _info(
            evaluate.ComparisonInfo,
            {"predictions1": CLASS, "predictions2": CLASS, "references": CLASS},
            description="Exact test of McNemar for two classifiers on the same images: of the images that one gets right and "
            "the other wrong, does one win more than by chance?",
            citation=MCNEMAR,
            inputs_description=PAIR_INPUTS
            + """    references: labels, (image,), integers from 0 on.
Returns:
    statistic: the smaller number of wins.
    p_value: binomial, two-sided; 1 where no image tells.
    n_discordant: images that one gets right and the other wrong.
    accuracy1, accuracy2: from 0 to 1.
    n: images.
""",
            reference_urls=["https://doi.org/10.1007/BF02295996"],
        )

    def _compute(self, predictions1: Any, predictions2: Any, references: Any) -> dict[str, float]:
        labels = _array(references)
        return metrics.mcnemar(_array(predictions1) == labels, _array(predictions2) == labels)


class Agreement(_OfImages, evaluate.Comparison):
    """How often two classifiers predict the same class; see `metrics.agreement`."""

    def _info(self) -> Any:
        return _info(
            evaluate.ComparisonInfo,
            {"predictions1": CLASS, "predictions2": CLASS},
            description="Share of images for which two classifiers predict the same class, and Cohen's kappa, which is 0 for "
            "independent classifiers and 1 for equal ones; each with a 95 % interval over images.",
            citation=COHEN,
            inputs_description=PAIR_INPUTS
            + """Returns:
    agreement, agreement_low, agreement_high: from 0 to 1; Wilson's interval.
    kappa, kappa_low, kappa_high: from -1 to 1, NaN where both always predict one and the same class; jackknife interval.
    n: images.
""",
            reference_urls=["https://doi.org/10.1177/001316446002000104"],
        )

    def _compute(self, predictions1: Any, predictions2: Any) -> dict[str, float]:
        estimates = metrics.agreement(_array(predictions1), _array(predictions2))
        found: dict[str, float] = {}
        for name, estimate in estimates.items():
            found |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        return found | {"n": estimates["kappa"].n}


# --------------------------------------------------------------------------------------------------- two sets of features


class CKA(_OfImages, evaluate.Measurement):
    """How alike the features of two networks are: debiased linear ``cka`` with its interval over images."""

    def _info(self) -> Any:
        return _info(
            evaluate.MeasurementInfo,
            {"features1": FEATURES, "features2": FEATURES},
            description="Linear centred kernel alignment of two sets of features of the same images, with the unbiased HSIC "
            "of Song et al. 2012: about 0 for unrelated features, where it may be negative, and 1 for features that are equal "
            "up to rotation, scale and shift. The 95 % interval is a jackknife over images.",
            citation=KORNBLITH,
            inputs_description=FEATURE_INPUTS
            + """Returns:
    cka: at most 1; NaN where one side is the same for every image.
    cka_low, cka_high: its interval.
    n: images, at least 5. Memory grows with its square: 1 GB for 4,000 images.
""",
            reference_urls=["https://arxiv.org/abs/1905.00414"],
        )

    def _compute(self, features1: Any, features2: Any) -> dict[str, float]:
        first, second = (_array(each, "features of the same length") for each in (features1, features2))
        if len(first) < 5:
            raise StudyError(f"CKA with an interval needs at least 5 images, got {len(first)}; add more")
        A, B = (_u_centred(values)[None, None] for values in (first, second))
        kernels = CrossKernels(A, B, np.array([len(first)]))
        value = kernels.cka()
        low, high = jackknife(value, kernels.without_each_image())
        return {"cka": value.item(), "cka_low": low.item(), "cka_high": high.item(), "n": len(first)}


def _u_centred(features: np.ndarray) -> np.ndarray:
    """The U-centred Gram matrix of (n, d) features, (n, n) (Székely & Rizzo 2014, Annals of Statistics), largest entry 1.

    Zero where the features are the same for every image. CKA does not depend on their scale, so they are scaled before they are
    multiplied: products of 1e200 or of 1e-200 are beyond a float.
    """
    n = len(features)
    features = (
        features / 2 - features[0] / 2
    )  # halves do not overflow; what is the same for all images is 0, not rounding
    largest = np.abs(features).max()
    if not largest:
        return np.zeros((n, n))
    features /= largest
    features -= features.mean(0)
    gram = features @ features.T
    np.fill_diagonal(gram, 0)
    rows = gram.sum(0) / (n - 2)
    gram += rows.sum() / (n - 1) - rows - rows[:, None]
    np.fill_diagonal(gram, 0)
    return gram / np.abs(gram).max()


# ---------------------------------------------------------------------------------------------------------- as a Space

MODULES: dict[str, type] = {
    "accuracy": Accuracy,
    "top_k_accuracy": TopKAccuracy,
    "nll": NegativeLogLikelihood,
    "ece": ExpectedCalibrationError,
    "mcnemar": McNemar,
    "agreement": Agreement,
    "cka": CKA,
}
GRADIO = "6.31.0"  # of the Space
EXAMPLES = {  # of inputs, as JSON
    "predictions": [[2.0, 0.5], [0.1, 1.2], [0.3, 0.2]],
    "references": [0, 1, 1],
    "predictions1": [0, 1, 1],
    "predictions2": [0, 1, 0],
    "features1": [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.5, 0.2], [0.1, 0.9]],
    "features2": [[0.9, 0.1], [0.2, 1.1], [1.0, 0.8], [0.4, 0.3], [0.0, 1.0]],
}


def write_module(
    name: str, out: Path, *, sdk: str = "gradio", requirement: str = f"hf_vitstudy=={__version__}"
) -> Path:
    """Write a module of this file as the repository of a Space, from which ``evaluate.load("org/NAME")`` takes it.

    The folder must be named as the Space will be: `evaluate` looks for ``NAME.py`` in it. Whoever loads the module needs this
    package, not torch.

    Args:
        name: a key of `MODULES`.
        out: the folder; files of the same names in it are replaced.
        sdk: ``gradio``, where one can try it; or ``static``, a page alone, which the Hub hosts for everyone.
        requirement: of this package, as pip has them, such as a wheel's address.

    Returns:
        `out`, with ``NAME.py``, README.md, requirements.txt and app.py or index.html.

    Raises:
        StudyError: an unknown module or sdk, or a folder whose name no Space can have.
    """
    if name not in MODULES:
        raise StudyError(f"no module {name!r}; {nearest_name(name, MODULES)}")
    if sdk not in ("gradio", "static"):
        raise StudyError(f"sdk must be 'gradio' or 'static', got {sdk!r}")
    info, space = MODULES[name]().info, out.resolve().name
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", space, re.ASCII):
        raise StudyError(
            f"the folder is named as the Space: letters, digits, - and _ only, no dot, since evaluate.load imports it by that "
            f"name; got {space!r}"
        )
    context = {key: Markdown(value) for key, value in _described(name, info, space, requirement).items()}
    templates = {f"{space}.py": "evaluate_module.jinja", "README.md": "evaluate_readme.md"}
    templates |= {"app.py": "evaluate_app.jinja"} if sdk == "gradio" else {"index.html": "evaluate_page.jinja"}
    texts = {path: environment().get_template(template).render(context) for path, template in templates.items()}
    texts["README.md"] = f"---\n{_space_header(name, info, sdk)}\n---\n\n{texts['README.md']}"
    needed = [requirement, "evaluate>=0.4.6", "datasets>=4.0"]
    texts["requirements.txt"] = "\n".join(needed)
    out.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        (out / path).write_text(text.rstrip() + "\n", encoding="utf-8")
    return out


def _described(name: str, info: Any, space: str, requirement: str) -> dict[str, str]:
    """What the templates show; all of it was written in this package."""
    kind = MODULES[name].__name__
    given = {feature: EXAMPLES[feature] for feature in info.features}
    arguments = ", ".join(f"{feature}={json.dumps(value)}" for feature, value in given.items())
    call = f'evaluate.load("ORG/{space}").compute({arguments})'
    return {
        "name": name,
        "kind": kind,
        "type": info.module_type,
        "description": info.description,
        "page": html.escape(info.description),
        "page_call": html.escape(call),
        "page_requirement": html.escape(requirement),
        "inputs": info.inputs_description.strip(),
        "citation": info.citation,
        "examples": json.dumps(given),
        "call": call,
        "requirement": requirement,
    }


def _space_header(name: str, info: Any, sdk: str) -> str:
    from huggingface_hub import SpaceCardData

    data = SpaceCardData(
        title=f"{name} of hf_vitstudy",
        emoji="🔬",
        colorFrom="blue",
        colorTo="gray",
        sdk=sdk,
        sdk_version=GRADIO if sdk == "gradio" else None,
        app_file="app.py" if sdk == "gradio" else "index.html",
        license="apache-2.0",
        tags=["evaluate", info.module_type],
        short_description=f"A {info.module_type} of the evaluate library",
    )
    return data.to_yaml()
