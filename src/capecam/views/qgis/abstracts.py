"""Abstracts of the layers, for their metadata and tooltips in QGIS; see docs/method.md."""

from __future__ import annotations

PROJECT = (
    "Detected objects: {found}, in {done:,} of {cells:,} images. {about}.\n\n"
    "Themes (the eye above the layers): Overview is what was found, Explain what the network's "
    "decisions rest on, Review the objects that are the most likely wrong. Project > Layouts > "
    "Review queue prints a page an object.\n\n"
    "To record verdicts, type capecam review with the folder of this project, and drag the file "
    "review.gpkg that it makes into the project: its layers come with forms. Explanations show the "
    "network's reasons, not what is true."
)

DETECTIONS = (
    "All detected objects, in the colour of their class. Zoomed in: class, confidence (mean "
    "probability inside, 0..1) and evidence, from blurring parts of its tile. itself: found from "
    "its own pixels. context: from its surroundings. both: needs both. either: each is enough. "
    "unproven: its map is no better than random. Evidence is about the network's reasons, not "
    "about the truth."
)

DENSITY = (
    "Number of regions in each image, before neighbouring regions were joined and small ones "
    "dropped. Shown at small scales; at 1:{scale:,} and larger, outlines are shown instead."
)

REJECTED = (
    "Objects that a filter dropped, by the first reason that applies: small, unsure (confidence "
    "too low) or off building. They are not counted."
)

QUEUE = (
    "The first {count} detections of the review queue, 1 first: the least confident (with a "
    "calibration, the least likely right: p_right), among equal ones the smallest. The attribute "
    'table has this order. The layer\'s filter (Ctrl+F) sets how many are shown; "evidence" = '
    "'context' selects these only. For verdicts, type capecam review with the folder of this "
    "project, and drag its review.gpkg into the project."
)

CELLS = (
    "State of every image: done, failed (with the reason), running or pending. Updated while a run "
    "is active."
)
CLASSES = (
    "Most probable class of every pixel, before regions are joined and small ones dropped. "
    "Background is not drawn."
)

PROBABILITY = (
    "Probability of {name} at every pixel, 0..1, as computed by the network; it is not calibrated "
    "against truth. Values below 0.1 are transparent."
)

IMAGERY = "The images of the run, read from their original files."

IMAGERY_SCALE = (
    " Shown at 1:{scale:,} and larger: at smaller scales too many pixels would have to be read."
)

EMPTY = (
    "{method} of {name}: empty. No tile of the calibration sample had a positive value. The map is "
    "0 everywhere and is not stretched."
)

HEAT = (
    "{method}: {what}, for {name}. One scale for the whole city: from 0, which is transparent, "
    "to {top}, {of} (raw {raw:.3g}). {levels}The map explains the score ({score}): it shows what "
    "changes the score, not what is true."
)

OF_ALL = "the 99.5th percentile of the positive values"

OF_DETECTIONS = "the 99.9th percentile of the positive values in or beside detections"

ROOTS = "Values are square roots of the raw values' shares of this; the weak background is 0. "

OBJECTS = (
    "What the network's decision for each {name} rests on: a map of that object's own score "
    "({method}), not of a whole tile's. A block of {block:.2g} m shows its share of the object's "
    "explanation, up to {top:g} % and more, in colours by the square root; up to 0.1 % is "
    "transparent. The blocks of an object add up to 100 %. Drawn up to {reach:g} m from objects, "
    "with the higher share where two meet. Bright on the object: it is found from its own pixels. "
    "Bright beside it: from its surroundings. It shows the network's reasons, not what is true."
)

OF_TILE = " It is a map of whole tiles: for one object, look at its own explanation."

WHERE = "where the network looked, in blocks; one sample is wider than a small object"

WHAT = (
    "which pixels change the score; it shows edges, and depends on the class only through the Grad-"
    "CAM that it is multiplied with"
)

DETECTED = " Only tiles in which the class was predicted are explained; the others are nodata."
