"""The words of a text in any script: what ROUGE, METEOR, features and lengths are counted in."""

import re
import unicodedata
from functools import cache

_ASCII = re.compile("[a-z0-9]+")
# Scripts that are written without blanks: Thai to Khmer, kana, Chinese characters; each of their characters is a word.
_ALONE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003134f"
)


def words(text: str) -> list[str]:
    """Runs of letters and digits, in lower case; of a script without blanks, every character with its marks.

    For ASCII these are the words of the package rouge-score. Accents stay, and are of one form (NFC).
    """
    if text.isascii():
        return _ASCII.findall(text.lower())
    return _pattern().findall(unicodedata.normalize("NFC", text.lower()))


@cache
def _pattern():
    # Marks (vowel signs of Hindi, accents that have no letter of their own) belong to the letter before them.
    signs = [code for code in range(0x300, 0x1F000) if unicodedata.category(chr(code)).startswith("M")]
    marks = "".join(map(chr, signs))
    return re.compile(f"[{_ALONE}][{marks}]*|(?:[^\\W_{_ALONE}][{marks}]*)+")
