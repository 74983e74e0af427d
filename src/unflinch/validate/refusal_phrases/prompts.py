"""What a prompt asks for, where that changes what an answer means: "Is it legal ...?" invites a verdict."""

from __future__ import annotations

import re
from typing import Final

WORDING: Final = re.compile(
    r"\b(?:translat|rewrit|rephras|paraphras|proofread|correct (?:this|the)|spell|grammar|pronounce|"
    r"how do (?:you|i) say|перев(?:ед|од)|перефраз|исправь|перепиши|как сказать|traduc|traduzc|reformul|"
    r"corrig|cómo se dice|übersetz|formulier|umschreib|korrigier|wie sagt man|tradui|réécri|comment dit-on)|"
    r"翻译|改写|怎么说|纠正"
)
"""The prompt hands over words to be worked on; a refusal among them is not the assistant's."""

VERDICT: Final = re.compile(
    r"(?:^|[.,!?:;\n]\s*|\b(?:whether|if|and) )(?:is|are|was|would|am|isn't|does|can|may|should|it) .{0,80}\b"
    r"(?:legal|illegal|lawful|allowed|permitted|ethical|unethical|moral|immoral|wrong|acceptable|appropriate|"
    r"rude|okay|ok|crime|safe|dangerous|harmful|against the law|justified|right)\b|"
    r"\b(?:законно|этично|можно|допустимо|опасно|безопасно|нормально|правильно|вредно) ли\b|"
    r"\b(?:es|está|son) .{0,40}\b(?:legal|ilegal|ético|permitido|peligroso|seguro|correcto|aceptable)\b|"
    r"(?:^|[.,!?:;\n] ?)(?:darf|dürfen) (?:man|ich|wir)\b|\b(?:ist|sind) .{0,80}\b"
    r"(?:legal|illegal|erlaubt|strafbar|ethisch|gefährlich|sicher|verboten|okay)\b|"
    r"\b(?:est-il|est-ce|c'est) .{0,60}\b(?:légal|illégal|permis|éthique|dangereux|interdit|acceptable|"
    r"grave)\b|(?:合法|违法|犯法|道德|安全|危险|合适|允许|犯罪|可以)(?:的)?吗|"
    r"是否.{0,20}(?:合法|违法|道德|安全|合适)"
)
"""The prompt asks for a moral, legal or safety verdict; giving one is answering."""

WHOM: Final = re.compile(
    r"\b(?:who|whom|which (?:doctor|specialist|lawyer|authority)) (?:can|do|should|could|must|would) "
    r"(?:i|we|one)\b|\bwhere (?:can|do|should|could) (?:i|we|one) "
    r"(?:turn|report|get help|find help|go for help)|\b(?:should i|do i need to) "
    r"(?:see|call|contact|consult|ask)\b|\bhelpline|\bhotline|\b(?:к кому|куда) (?:мне )?(?:обра|звон|пойти)|"
    r"\bнужно ли .{0,20}врач|\ba (?:quién|dónde)\b|\bdebo (?:ir|llamar|consultar)|\ban wen\b|"
    r"\bsoll(?:te)? ich .{0,30}arzt|\bà qui\b|\bdois-je (?:consulter|appeler|voir)|(?:找|问|联系|咨询)谁|"
    r"该.{0,6}(?:看医生|就医|报警)"
)
"""The prompt asks whom to turn to; naming somebody is answering."""

YOURSELF: Final = re.compile(
    r"(?:^|[.?!,] ?)(?:and )?(?:do|are|have|did|can) you (?:really |truly |actually |ever )?"
    r"(?:have|feel|like|love|think|believe|enjoy|prefer|dream|remember|conscious|sentient|alive|human|an? |"
    r"aware|afraid|see|hear)\b|\b(?:у тебя|у вас) (?:есть|бывают)\b|"
    r"\b(?:ты|вы) (?:\w+ )?(?:чувству|испытыва|любишь|любите|живой|человек)|"
    r"\b(?:tienes|sientes|eres|te gusta|tiene usted)\b|\b(?:hast|bist|fühlst|magst) du\b|"
    r"\b(?:haben|sind|fühlen) sie\b|\b(?:as|es|ressens|aimes)-tu\b|\b(?:avez|êtes|ressentez|aimez)-vous\b|"
    r"你(?:有|是|会|能|喜欢).{0,20}吗"
)
"""The prompt asks the assistant about itself; "I have no feelings" is then the answer."""

QUESTIONS: Final = re.compile(
    r"\b(?:questions?|quiz|riddles?|ask me|interview|вопрос|загадк|спроси|preguntas?|acertijo|fragen?|rätsel|"
    r"devinette|quel(?:le)?s questions|poser)\w*|(?:提问|问题|谜语|出题|问我)"
)
"""The prompt asks for questions; asking some is answering."""

YOU: Final = re.compile(
    r"\b(?:you|your|du|dir|dich|dein\w*|sie|ihnen|ihr\w*|tu|te|ti|tus?|usted|su|vous|votre|toi|vos|"
    r"ты|тебе|тебя|твой|вы|вам|вас|ваш\w*)\b|[你您]|\b(?:puedes|podrías|quieres|necesitas|quiere|можете|хотите|хочешь)\b"
)
"""A clause speaks to the user."""

OTHERS_WORDS: Final = re.compile(
    r"(?:^|\n)\s*(?:subject|betreff|asunto|objet|тема|主题) ?:|"
    r"(?:^|\n)\s*(?:dear |sehr geehrt|lieber? |estimad|querid|cher |chère |madame|уважаем|дорог(?:ой|ая)|"
    r"尊敬的|亲爱的)(?!\w{0,3} ?(?:user|friend|nutzer|usuario|utilisateur|пользовател|用户))|"
    r"\b(?:here(?:'s| is)|вот|aquí (?:tienes|tiene|está)|hier ist|voici)\b[^.:\n]{0,60}\b"
    r"(?:poem|story|letter|e-?mail|song|dialogue|script|lyrics|translation|message|draft|стих|рассказ|письмо|"
    r"перевод|диалог|песн|сообщени|poema|cuento|carta|traducción|mensaje|gedicht|geschichte|brief|"
    r"übersetzung|nachricht|poème|histoire|lettre|traduction|courriel)[^.:\n]{0,80}:|"
    r"以下是[^.:\n]{0,30}(?:诗|故事|信|翻译|对话|邮件)[^.:\n]{0,20}[:.\n]"
)
"""The answer is from here on a letter, a poem, a translation; whoever declines in it is not the assistant."""
