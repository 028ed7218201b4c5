"""The report's languages: texts from gettext catalogues, numbers in the locale's form.

English is what the code says; another language is ``locales/<code>.po``, read as it is, so that no compiled catalogue
is kept beside it. Numbers come here rounded (`lenet.report.tables` rounds) and leave with the locale's signs.
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

__all__ = ["ENGLISH", "LANGUAGES", "Language", "find_language"]

LANGUAGES: Final = ("en", "ru")
_CATALOGUES: Final = Path(__file__).parent / "locales"
_SUPERSCRIPTS: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Language:
    """One language.

    Args:
        code: One of `LANGUAGES`.

    Attributes:
        code: Its code, as HTML's ``lang`` has it.
        translations: Its catalogue.
    """

    def __init__(self, code: str) -> None:
        self.code = code
        self.translations = _catalogue(code)
        self._decimal, self._group = get_decimal_symbol(code), get_group_symbol(code)

    def text(self, message: str, **values: object) -> str:
        """A message in this language; ``%(name)s`` stands for a value, ``%%`` for a per cent sign."""
        return _bound(self.translations.gettext(message) % values)

    def plural(self, one: str, many: str, count: int, **values: object) -> str:
        """A message in the form that goes with a number, which ``%(count)s`` stands for."""
        return _bound(self.translations.ngettext(one, many, count) % {"count": self.number(f"{count:,}"), **values})

    def known(self, words: str) -> str:
        """Words from a file in this language, where they are the project's own; else as they are."""
        if words == "CIFAR-10 test images":
            return self.text("CIFAR-10 test images")
        if words == "CIFAR-10 training images":
            return self.text("CIFAR-10 training images")
        if found := re.fullmatch(r"CPU, (\d{1,6}) threads?", words):
            return self.plural("CPU, %(count)s thread", "CPU, %(count)s threads", int(found[1]))
        return words

    def number(self, rounded: str) -> str:
        """A number that is already rounded, in the locale's form: every digit that is given is kept.

        Args:
            rounded: As Python writes it: ``1,234.50``, ``0.0012``, ``9.5e-06``. Thousands are grouped if they are here.
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
    """A language by its code, made once."""
    return Language(code)


ENGLISH: Final = find_language("en")
"""The commands' language, and the report's unless another is asked for."""
