"""What is said about each layer: what it is, and how to read it. Taken from docs/method.md."""

from __future__ import annotations

DETECTIONS = (
    "Every object that was found, in the colour of its class. Close up: class, confidence (its "
    "mean probability inside, 0..1) and evidence. focused: the network looked at the object. "
    "context: at something beside it. saturated: it is sure, yet nothing there moves the score "
    "any more. weak: none of these. Evidence is about the score, not about truth."
)

DENSITY = (
    "Regions that were found in each image, before those close together were joined and small ones "
    "dropped. Shown where single objects cannot be seen: from 1:{scale:,} on, outlines take over."
)

REJECTED = (
    "What was traced and then dropped, by the first reason that holds: small, unsure "
    "(confidence too low) or off building. In no count."
)

QUEUE = (
    "The {count} detections that a person should look at first, 1 before all others: those that"
    " are confident for reasons that lie elsewhere (context), and those split between two "
    "classes. The attribute table is in this order. The layer's filter (Ctrl+F) says how many "
    "there are; \"evidence\" = 'context' shows those alone."
)

CELLS = (
    "The state of every image: done, failed (with the reason), running or pending. It changes "
    "while a run goes on."
)

CLASSES = (
    "The likeliest class of every pixel, before regions are joined and small ones dropped. "
    "Background is not drawn."
)

PROBABILITY = (
    "Probability of {name} at every pixel, 0..1, as the network says it: nobody has compared it"
    " with how often it is right. Nothing is drawn below 0.1."
)

IMAGERY = (
    "The images that were run, from where they lie. Shown at 1:{scale:,} and closer: further "
    "out, too many pixels would have to be read at once."
)

EMPTY = (
    "{method} of {name}: empty. No tile of the sample that sets the scale had a positive value."
    " The map is 0 everywhere, and is not stretched to show something."
)

HEAT = (
    "{method}: {what}, for {name}. One scale for the whole city: from 0, which is transparent, "
    "to {top}, the 99.5th percentile of the positive values (raw {raw:.3g}). What is explained "
    "is the score ({score}): the map says what moves it, not what is true."
)

WHERE = "where the network looked, in blocks; a sample of it is wider than a small object"

WHAT = (
    "which pixels moved the score; it shows edges, and knows the class only through the Grad-"
    "CAM that it is multiplied with"
)

DETECTED = " Only tiles in which the class was found are explained; there is nothing elsewhere."
