/** Which detections are shown. */

/** Filters that let everything through. */
export function noFilters(city) {
  return {
    minProbability: 0,
    minArea: 0,
    classes: new Set(city.classes.map((entry) => entry.id)),
    words: new Set([...city.evidence.map((entry) => entry.word), ""]),
  };
}

/** How likely a detection is right where that is known, and else its confidence. */
export function probability(detection) {
  return detection.p_right ?? detection.confidence;
}

/** Return whether a detection passes. */
export function passes(filters, detection) {
  return (
    filters.classes.has(detection.class_id) &&
    (filters.minProbability === 0 || probability(detection) >= filters.minProbability) &&
    detection.area_m2 >= filters.minArea &&
    filters.words.has(detection.evidence ?? "")
  );
}

/** Return whether more than the class is asked for; counts by place know only the class. */
export function isNarrow(filters, city) {
  const all = noFilters(city);
  return filters.minProbability > 0 || filters.minArea > 0 || filters.words.size < all.words.size;
}
