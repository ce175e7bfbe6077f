"""Rate subtitle breaks by the linguistic rules of the BBC Subtitle Guidelines (Line breaks) and the Netflix Timed Text
Style Guide (Line treatment).

The best break is after a sentence, then after a clause, then before a conjunction or preposition, then anywhere else.
The worst is after a word that belongs to the next one, such as an article. There is no grammar analysis: the languages
below use short lists of function words, all others only punctuation.
"""

import re
import unicodedata

from daemon.schema.punctuation import ends_sentence

# Break costs; only the differences matter.
SENTENCE, CLAUSE, PHRASE, PLAIN, CLINGING = 0.0, 3.0, 5.0, 10.0, 14.0

_CLAUSE_END = re.compile(r"""[,;:?!…—–،؛、，；：-]["'”’»)\]}」』）》〉】]*$""")

# Words that start a phrase: conjunctions, prepositions and relative pronouns.
_OPENERS = {
    "en": "about after against although and as at because before between but by during for from if in into like nor of "
    "on or since so than that though through to under unless until when where whether which while who with without",
    "de": "aber als am an auf aus bei bis da damit dass denn doch durch für gegen im in mit nach ob obwohl oder ohne "
    "seit sondern sowie über um und unter vom von vor während weil wenn wie wo zu zum zur zwischen",
    "fr": "à après au aux avant avec car chez comme dans de depuis des donc du en entre et lorsque mais ni où ou par "
    "parce pendant pour puisque quand que qui sans si sous sur vers",
    "es": "a al ante aunque bajo como con contra cuando de del desde donde en entre hacia hasta mientras ni o para pero "
    "por porque que según si sin sobre y",
    "it": "a al alla anche ai che chi come con contro da dal dalla dei del della di dopo dove durante e ed fra in ma "
    "mentre nel nella o per perché prima quando se senza sotto su sul sulla tra",
    "pt": "a ao até com como contra da das de desde do dos e em embora enquanto entre mas na nas no nos onde ou para "
    "pela pelo por porque quando que se sem sob sobre",
    "nl": "aan als bij binnen dat door en hoewel in maar met na naar of om omdat onder op over sinds te tegen toen "
    "totdat tussen uit van voor want wanneer zonder",
}
# Words that belong to the next word: articles, possessives and similar.
_DETERMINERS = {
    "en": "a an the my your his her its our their this these those every each some any no not very mr mrs ms dr",
    "de": "der die das dem den des ein eine einem einen einer eines mein dein sein ihr unser kein keine nicht sehr",
    "fr": "le la les l un une mon ma mes ton ta tes son sa ses notre nos votre vos leur leurs ce cet cette ces ne très",
    "es": "el la los las un una unos unas mi mis tu tus su sus este esta estos estas no muy",
    "it": "il lo la i gli le un uno una mio mia tuo tua suo sua questo questa non molto",
    "pt": "o os as um uma uns umas meu minha seu sua este esta não muito",
    "nl": "de het een mijn jouw zijn haar ons onze hun deze die dit geen niet heel",
}
_OPENER_SETS = {language: frozenset(words.split()) for language, words in _OPENERS.items()}
_CLINGING_SETS = {
    language: _OPENER_SETS[language] | frozenset(words.split()) for language, words in _DETERMINERS.items()
}

# Japanese line-breaking rules (JIS X 4051, kinsoku shori): characters that must not start or end a line. Also the Thai
# and Lao vowels that are written before their consonant, which must not end a line.
_NOT_FIRST = frozenset(
    "ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶー々ゝゞヽヾ、。，．・：；？！?!,.:;)]}」』）》〉】”’…‥ๆฯໆ"
)
_NOT_LAST = frozenset("([{「『（《〈【“‘เแโใไເແໂໃໄ")
_CLOSING = re.compile(r"""[-–—.,;:?!…"'”’»)\]}、。，；：？！」』）》〉】]+""")


def break_cost(before: str, after: str, language: str) -> float:
    """Return the cost of a break between two words, from SENTENCE to CLINGING.

    `language` is the code of the text's language. If it has no word list, only punctuation counts.
    """
    if ends_sentence(before):
        return SENTENCE
    if _CLAUSE_END.search(before):
        return CLAUSE
    if _bare(before) in _CLINGING_SETS.get(language, ()):
        return CLINGING
    return PHRASE if _bare(after) in _OPENER_SETS.get(language, ()) else PLAIN


def is_closing(text: str) -> bool:
    """Whether a text is punctuation that belongs to the preceding word.

    Includes dashes, because a line that starts with one would look like another speaker's.
    """
    return bool(_CLOSING.fullmatch(text))


def parts_characters(before: str, after: str) -> bool:
    """Whether a break is allowed between two adjacent texts of an unspaced script."""
    last, first = before[-1], after[0]
    if first in _NOT_FIRST or last in _NOT_LAST or unicodedata.category(first).startswith("M"):
        return False
    return not (last.isascii() and first.isascii())  # a foreign word or a number


def _bare(word: str) -> str:
    return word.strip("\"'“”‘’«»()[]¿¡-–—.").lower()
