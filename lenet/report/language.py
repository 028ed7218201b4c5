"""The report's languages: texts from gettext catalogues, numbers in the locale's form.

English texts stand in the code. Other languages are ``locales/<code>.po``, read without a compiled catalogue. Numbers
arrive rounded (by `lenet.report.rounding`) and get the locale's separators here.
"""

from __future__ import annotations

import gettext
import io
import re
from functools import cache
from pathlib import Path
from typing import Final

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import get_decimal_symbol, get_group_symbol

from lenet.report import reasons

__all__ = ["ENGLISH", "LANGUAGES", "Language", "find_language"]

LANGUAGES: Final = ("en", "ru")
_CATALOGUES: Final = Path(__file__).parent / "locales"
_RANGE: Final = r"[\d,]+(\.\d+)?( to [\d,]+(\.\d+)?)?"
_SUPERSCRIPTS: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Language:
    """One language.

    Args:
        code: One of `LANGUAGES`.

    Attributes:
        code: The language's code, as in HTML's ``lang``.
        translations: The catalogue.
    """

    def __init__(self, code: str) -> None:
        self.code = code
        self.translations = _catalogue(code)
        self._decimal, self._group = get_decimal_symbol(code), get_group_symbol(code)

    def text(self, message: str, **values: object) -> str:
        """A message in this language; ``%(name)s`` stands for a value, ``%%`` for a per cent sign."""
        return _bound(self.translations.gettext(message) % values)

    def plural(self, one: str, many: str, count: int, **values: object) -> str:
        """A message in the plural form for a number, which ``%(count)s`` stands for."""
        return _bound(self.translations.ngettext(one, many, count) % {"count": self.number(f"{count:,}"), **values})

    def known(self, words: str) -> str:
        """Words from a file in this language, if they are the project's own; otherwise unchanged."""
        if words == "CIFAR-10 test images":
            return self.text("CIFAR-10 test images")
        if words == "CIFAR-10 training images":
            return self.text("CIFAR-10 training images")
        if found := re.fullmatch(r"CPU, (\d{1,6}) threads?", words):
            return self.plural("CPU, %(count)s thread", "CPU, %(count)s threads", int(found[1]))
        reason = None if self.code == "en" else reasons.find(words)
        if reason is None:
            return words
        message, values = reason
        return self.text(message, **{name: self._value(value) for name, value in values.items()})

    def _value(self, words: str) -> str:
        """A value of a reason: a number, two as a range, or other reasons."""
        if re.fullmatch(_RANGE, words):
            return self.text(" to ").join(map(self.number, words.split(" to ")))
        return "; ".join(map(self.known, words.split("; ")))

    def number(self, rounded: str) -> str:
        """A rounded number in the locale's form. It keeps every digit.

        Args:
            rounded: As Python writes it: ``1,234.50``, ``0.0012``, ``9.5e-06``. Thousands stay grouped.
        """
        if self.code == "en" or not rounded.lstrip("-")[:1].isdigit():
            return rounded
        mantissa, _, exponent = rounded.partition("e")
        shown = mantissa.replace(",", "\0").replace(".", self._decimal).replace("\0", self._group)
        if not exponent:
            return shown
        return f"{shown}·10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def _bound(text: str) -> str:
    """Keep a per cent sign on the line of its number."""
    return re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", text)


def _catalogue(code: str) -> gettext.NullTranslations:
    if code == "en":
        return gettext.NullTranslations()
    compiled = io.BytesIO()
    with (_CATALOGUES / f"{code}.po").open("rb") as file:
        write_mo(compiled, read_po(file, locale=code))
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)


@cache
def find_language(code: str) -> Language:
    """The language with a code, cached."""
    return Language(code)


ENGLISH: Final = find_language("en")
"""The language of the commands, and the report's default."""
