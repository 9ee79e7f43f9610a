"""How papers, and what was found here, are cited: BibTeX entries by the names under which texts speak of them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any


# name in our texts -> (kind, key, authors, title, where it appeared, year, arXiv)
PAPERS = {
    "Park & Kim 2022": (
        "inproceedings",
        "park2022how",
        "Park, Namuk and Kim, Songkuk",
        "How Do Vision Transformers Work?",
        "International Conference on Learning Representations",
        2022,
        "2202.06709",
    ),
    "Raghu et al. 2021": (
        "inproceedings",
        "raghu2021do",
        "Raghu, Maithra and Unterthiner, Thomas and Kornblith, Simon and Zhang, Chiyuan and Dosovitskiy, Alexey",
        "Do Vision Transformers See Like Convolutional Neural Networks?",
        "Advances in Neural Information Processing Systems",
        2021,
        "2108.08810",
    ),
    "Dosovitskiy et al. 2020": (
        "inproceedings",
        "dosovitskiy2021image",
        "Dosovitskiy, Alexey and Beyer, Lucas and Kolesnikov, Alexander and Weissenborn, Dirk and Zhai, Xiaohua and "
        "Unterthiner, Thomas and Dehghani, Mostafa and Minderer, Matthias and Heigold, Georg and Gelly, Sylvain and "
        "Uszkoreit, Jakob and Houlsby, Neil",
        "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
        "International Conference on Learning Representations",
        2021,
        "2010.11929",
    ),
    "Kornblith et al. 2019": (
        "inproceedings",
        "kornblith2019similarity",
        "Kornblith, Simon and Norouzi, Mohammad and Lee, Honglak and Hinton, Geoffrey",
        "Similarity of Neural Network Representations Revisited",
        "International Conference on Machine Learning",
        2019,
        "1905.00414",
    ),
    "Goodfellow et al. 2015": (
        "inproceedings",
        "goodfellow2015explaining",
        "Goodfellow, Ian J. and Shlens, Jonathon and Szegedy, Christian",
        "Explaining and Harnessing Adversarial Examples",
        "International Conference on Learning Representations",
        2015,
        "1412.6572",
    ),
    "Madry et al. 2018": (
        "inproceedings",
        "madry2018towards",
        "Madry, Aleksander and Makelov, Aleksandar and Schmidt, Ludwig and Tsipras, Dimitris and Vladu, Adrian",
        "Towards Deep Learning Models Resistant to Adversarial Attacks",
        "International Conference on Learning Representations",
        2018,
        "1706.06083",
    ),
    "Song et al. 2012": (
        "article",
        "song2012feature",
        "Song, Le and Smola, Alex and Gretton, Arthur and Bedo, Justin and Borgwardt, Karsten",
        "Feature Selection via Dependence Maximization",
        "Journal of Machine Learning Research",
        2012,
        "",
    ),
    "Nguyen, Raghu & Kornblith 2021": (
        "inproceedings",
        "nguyen2021wide",
        "Nguyen, Thao and Raghu, Maithra and Kornblith, Simon",
        "Do Wide and Deep Networks Learn the Same Things? Uncovering How Neural Network Representations Vary with Width "
        "and Depth",
        "International Conference on Learning Representations",
        2021,
        "2010.15327",
    ),
    "Cui et al. 2022": (
        "inproceedings",
        "cui2022deconfounded",
        "Cui, Tianyu and Kumar, Yogesh and Marttinen, Pekka and Kaski, Samuel",
        "Deconfounded Representation Similarity for Comparison of Neural Networks",
        "Advances in Neural Information Processing Systems",
        2022,
        "2202.00095",
    ),
    "Kriegeskorte, Mur & Bandettini 2008": (
        "article",
        "kriegeskorte2008representational",
        "Kriegeskorte, Nikolaus and Mur, Marieke and Bandettini, Peter",
        "Representational Similarity Analysis: Connecting the Branches of Systems Neuroscience",
        "Frontiers in Systems Neuroscience",
        2008,
        "",
    ),
    "Williams et al. 2021": (
        "inproceedings",
        "williams2021generalized",
        "Williams, Alex H. and Kunz, Erin and Kornblith, Simon and Linderman, Scott",
        "Generalized Shape Metrics on Neural Representations",
        "Advances in Neural Information Processing Systems",
        2021,
        "2110.14739",
    ),
    "Ding et al. 2021": (
        "inproceedings",
        "ding2021grounding",
        "Ding, Frances and Denain, Jean-Stanislas and Steinhardt, Jacob",
        "Grounding Representation Similarity Through Statistical Testing",
        "Advances in Neural Information Processing Systems",
        2021,
        "2108.01661",
    ),
    "Huh et al. 2024": (
        "inproceedings",
        "huh2024platonic",
        "Huh, Minyoung and Cheung, Brian and Wang, Tongzhou and Isola, Phillip",
        "The Platonic Representation Hypothesis",
        "International Conference on Machine Learning",
        2024,
        "2405.07987",
    ),
    "Luo et al. 2016": (
        "inproceedings",
        "luo2016understanding",
        "Luo, Wenjie and Li, Yujia and Urtasun, Raquel and Zemel, Richard",
        "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks",
        "Advances in Neural Information Processing Systems",
        2016,
        "1701.04128",
    ),
    "Li et al. 2018": (
        "inproceedings",
        "li2018visualizing",
        "Li, Hao and Xu, Zheng and Taylor, Gavin and Studer, Christoph and Goldstein, Tom",
        "Visualizing the Loss Landscape of Neural Nets",
        "Advances in Neural Information Processing Systems",
        2018,
        "1712.09913",
    ),
    "Ghorbani et al. 2019": (
        "inproceedings",
        "ghorbani2019investigation",
        "Ghorbani, Behrooz and Krishnan, Shankar and Xiao, Ying",
        "An Investigation into Neural Net Optimization via Hessian Eigenvalue Density",
        "International Conference on Machine Learning",
        2019,
        "1901.10159",
    ),
    "Hendrycks & Dietterich 2019": (
        "inproceedings",
        "hendrycks2019benchmarking",
        "Hendrycks, Dan and Dietterich, Thomas",
        "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
        "International Conference on Learning Representations",
        2019,
        "1903.12261",
    ),
}
PAPERS["Nguyen et al. 2021"] = PAPERS["Nguyen, Raghu & Kornblith 2021"]
SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def papers(texts: Iterable[str]) -> dict[str, str]:
    """Name -> BibTeX entry, of the papers that any of the texts speaks of."""
    whole = "\n".join(texts)
    return {name: _paper(*about) for name, about in PAPERS.items() if name in whole}


def _paper(kind: str, key: str, authors: str, title: str, where: str, year: int, arxiv: str) -> str:
    fields = {"title": f"{{{escaped(title)}}}", "author": authors}
    fields["journal" if kind == "article" else "booktitle"] = where
    fields["year"] = str(year)
    if arxiv:
        fields |= {"eprint": arxiv, "archiveprefix": "arXiv"}
    return entry(kind, key, fields)


def entry(kind: str, key: str, fields: Mapping[str, str]) -> str:
    """One BibTeX entry; the values of `fields` are LaTeX."""
    lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
    return f"@{kind}{{{key},\n{lines}}}\n"


def escaped(text: str) -> str:
    """Plain text as LaTeX on one line: what comes from outside closes no brace and starts no command."""
    one_line = " ".join(text.split())
    return re.sub(r"[\\~^&%$#_{}]", lambda match: SPECIAL.get(match[0], "\\" + match[0]), one_line)


def result_entry(result: dict[str, Any], year: int | None) -> str:
    """What was found here.

    Args:
        result: as `study.load_study` reads it.
        year: in which it was measured, None where that is not known.

    Returns:
        An entry with the title, the version of this package, and the sha256 of the result in its canonical form, which a
        reader computes of the stored ``results.json`` by ``json.dumps(result, sort_keys=True, separators=(",", ":"))``.
    """
    digest = result_sha256(result)
    fields = {
        "title": f"{{{escaped(result['title'])}}}",
        "howpublished": f"hf\\_vitstudy {escaped(result['version'])}",
    }
    if year is not None:
        fields["year"] = str(year)
    images = dict.fromkeys(
        f"{each['images']['n']} images of {each['images']['name']}" for each in result["checkpoints"]
    )
    fields["note"] = escaped(
        f"{len(result['checkpoints'])} checkpoints on {'; '.join(images)}. Result sha256 {digest}"
    )
    return entry("misc", f"vitstudy-{digest[:8]}", fields)


def result_sha256(result: dict[str, Any]) -> str:
    """Of the result as JSON with sorted keys and without spaces."""
    text = json.dumps(result, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
