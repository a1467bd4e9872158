"""The reference documentation of options is up to date with the settings."""

from pathlib import Path

from eventdata import options

PAGE = Path(__file__).parents[1] / "docs" / "options.md"


def test_the_reference_of_options_is_up_to_date():
    made = options.markdown()
    assert PAGE.read_text() == made, "run: python -m eventdata.options > docs/options.md"
