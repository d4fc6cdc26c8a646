"""What a publisher says of the data, and the date in a name, a tag or a setting."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest

from capecam.errors import SettingsError
from capecam.settings import AboutSettings
from capecam.settings.capture_date import CaptureDate
from capecam.settings.loading import validated

PATTERN = r"(?P<year>\d{4})_(?P<month>\d\d?)?"


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2023", (2023, 1, 1), (2023, 12, 31, 23, 59, 59)),
        ("2024-02", (2024, 2, 1), (2024, 2, 29, 23, 59, 59)),
        ("2023-12", (2023, 12, 1), (2023, 12, 31, 23, 59, 59)),
        ("2023-02-14", (2023, 2, 14), (2023, 2, 14, 23, 59, 59)),
        ("2023-02-14T09:30:00Z", (2023, 2, 14, 9, 30), (2023, 2, 14, 9, 30)),
        ("2023-01/2023-03-02", (2023, 1, 1), (2023, 3, 2, 23, 59, 59)),
        ("9999", (9999, 1, 1), (9999, 12, 31, 23, 59, 59)),
    ],
)
def test_a_date_is_an_interval(text, start, end) -> None:
    date = CaptureDate(text)
    assert (date.start, date.end) == (datetime(*start, tzinfo=UTC), datetime(*end, tzinfo=UTC))


@pytest.mark.parametrize(
    "text", ["23", "0000", "2023-13", "2023-02-30", "2023/2022", "2023/", "14.2.2023", "2023-2"]
)
def test_what_is_no_date_is_refused(text) -> None:
    with pytest.raises(SettingsError, match=r"about\.captured: must be a date such as 2023"):
        validated({"about": {"captured": text}}, "")


def test_dates_of_many_images_are_one_interval_if_all_are_known() -> None:
    dates = [CaptureDate(text) for text in ("2023-02", "2022-11-03", "2023-01-10/2023-01-11")]
    assert CaptureDate.over(dates) == CaptureDate("2022-11-03/2023-02")
    assert CaptureDate.over(dates[:1] * 3) == dates[0]
    assert CaptureDate.over([*dates, None]) is None
    assert CaptureDate.over([]) is None


@pytest.mark.parametrize(
    ("settings", "image", "tag", "date"),
    [
        ({}, "a", "2023:02:14 09:30:00", "2023-02-14"),
        ({}, "a", "2023-02-14T09:30:00Z", "2023-02-14T09:30:00Z"),
        ({}, "a", "0000:00:00 00:00:00", None),
        ({}, "2023_RGB", "", None),
        ({"captured": "2022"}, "2023_RGB", "2023:02:14 09:30:00", "2022"),
        ({"captured_pattern": PATTERN}, "2023_RGB_8cm_W57B_8", "2021:02:14 09:30:00", "2023"),
        ({"captured_pattern": PATTERN}, "ct_2023_4_W57B", "", "2023-04"),
        ({"captured_pattern": PATTERN}, "2023_77", "", None),
        (
            {"captured_pattern": r"(\d+_)?(?P<year>\d{4})(-(?P<month>\d\d))?_(?P<day>\d\d)"},
            "2023_07",
            "",
            "2023",
        ),
        ({"captured_pattern": PATTERN}, "W57B", "2021:02:14 09:30:00", "2021-02-14"),
    ],
)
def test_where_the_date_of_an_image_comes_from(settings, image, tag, date) -> None:
    found = AboutSettings(**settings).date_of(image, tag)
    assert (found and found.text) == date


@pytest.mark.parametrize(
    ("licence", "is_read_as", "page"),
    [
        ("cc-by-4.0", "CC-BY-4.0", "https://spdx.org/licenses/CC-BY-4.0.html"),
        ("MIT or Apache-2.0", "MIT OR Apache-2.0", None),
        ("LicenseRef-City", "LicenseRef-City", None),
        ("All rights reserved", "All rights reserved", None),
    ],
)
def test_a_licence_is_an_identifier_or_words(licence, is_read_as, page) -> None:
    about = AboutSettings(licence=licence)
    assert (about.licence, about.licence_page) == (is_read_as, page)
    url = "https://example.org/terms"
    assert AboutSettings(licence=licence, licence_url=url).licence_page == url


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"licence": "CC BY 4.0"}, "about.licence: is no identifier .* did you mean CC-BY-4.0?"),
        ({"licence": "CC-BY-4"}, "about.licence: must be an identifier of SPDX, .* got 'CC-BY-4'"),
        ({"licence_url": "example.org"}, "about.licence_url: must be a URL"),
        ({"attribution": "two\nlines"}, "about.attribution: must be a text of one line"),
        ({"captured_pattern": "(x"}, "about.captured_pattern: must be a regular expression"),
        ({"captured_pattern": "x"}, "must have a group for the year"),
        ({"captured_pattern": r"(?P<day>\d\d)_(?P<year>\d{4})"}, "a group for the month beside"),
        ({"captured": 2023, "captured_pattern": PATTERN}, "about: .* set one"),
        ({"license": "CC0-1.0"}, "did you mean 'about.licence'"),
    ],
)
def test_a_mistake_is_one_line_with_the_key(about, message) -> None:
    with pytest.raises(SettingsError) as refused:
        validated({"about": about}, "a.yaml: ")
    assert re.search(message, str(refused.value))
    assert "\n" not in str(refused.value)


def test_the_attribution_of_earlier_versions_still_holds() -> None:
    settings = validated({"qgis": {"attribution": "City", "imagery": True}}, "")
    assert (settings.about.attribution, settings.qgis.imagery) == ("City", True)
    both = {"qgis": {"attribution": "City"}, "about": {"attribution": "Town"}}
    with pytest.raises(SettingsError, match=r"qgis.attribution is now about.attribution"):
        validated(both, "")
