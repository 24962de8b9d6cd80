"""Word lists of our own making, by which a review sentence is seen to say something of a feature."""

# says that something is liked or not, and nothing of how it is
VERDICTS = frozenset(
    """
    amazing awesome awful bad beautifully best better cool crappy decent enjoyable excellent fabulous fantastic favorite
    favourite fine flawlessly good great happy horrible incredible lousy mediocre nice nicely ok okay outstanding
    perfect perfectly phenomenal poor stellar superb terrible terrific tops well wonderful wonderfully worse worst
    """.split()
)
# says how something is
DESCRIPTIONS = frozenset(
    """
    accurate adequate adjustable affordable airy annoying articulate attractive authentic awkward balanced beautiful
    beefy believable bitter bland boomy boring bright brighter brilliant brittle broken bulky buttery buzzy cheap
    cheaper cheaply cheesy clean cleaner clear clearer clearly clever clumsy comfortable comfy compact complicated
    confusing consistent convenient convincing courteous cozy cracked creamy creative crisp crude crunchy cumbersome
    cute dated dead deep deeper defective delicious dependable detailed difficult dirty disappointing dry dull durable
    easier easy economical effective efficient elegant engaging entertaining ergonomic evenly exceptional exciting
    expensive exquisite faint fair fascinating fast fat fatter faulty filthy firm firmly flawless flexible flimsy
    fragile fragrant fresh friendly frustrating fuller funny fuzzy generous gentle genuine glassy gorgeous greasy
    gripping handsome handy harsh hearty heavy-duty hefty helpful hilarious hissy hollow immersive impossible impressive
    inaccurate inconsistent inexpensive inferior inspiring interesting intuitive invaluable jangly juicy killer lifeless
    lightweight lively long-lasting loose loud louder lovely lush meaty mellow memorable misleading moist muddy muffled
    musical natural neat nimble noiseless noisier noisy odd old-school organic overpriced painful plasticky playable
    pleasant pleasing poetic pointless polite poorly portable powerful practical precise predictable premium priceless
    pricey problematic prompt punchy pure quick quicker quickly quiet quieter quietly readable realistic reasonable
    refreshing relaxing reliable repetitive responsive rich richer rigid robust romantic roomy rough rude rugged safe
    salty scratched scratchy secure securely sensitive shaky shallow sharp shiny shoddy shrill silent silky simple sleek
    slick slippery sloppy slow smart smelly smooth smoother smoothly snug snugly soft softer soggy solid solidly
    spacious sparkling spot-on squeaky stable stale steady sterile sticky stiff straightforward strong stronger
    stunning stupid sturdier sturdy stylish subtle sufficient superior sweet sweeter tacky tasty tedious tender thin-sounding
    thoughtful thrilling tight tighter tightly tinny top-notch tough transparent trebly ugly unbearable
    unbeatable unclear uncomfortable uneven unfriendly unimpressive unique unpleasant unreliable unstable unusable
    usable useable useful useless user-friendly valuable versatile vibrant vivid warm warmer warped weak weaker weird
    well-acted well-built well-constructed well-designed well-made well-written witty wobbly worthless wrong
    """.split()
)
# says how something is, or merely which one is meant: "light strings"
MEASURES = frozenset(
    """
    big bigger cold dark darker dynamic flat hard heavier heavy high higher hot huge large larger light lighter long
    longer low lower massive minimal modern narrow neutral rare short shorter small smaller standard thick thicker thin
    thinner tiny traditional vintage wide wider
    """.split()
)
OPINIONS = VERDICTS | DESCRIPTIONS | MEASURES
ADVERBIAL = frozenset(  # opinions on what something does, which stand before no noun
    """
    beautifully cheaply clearly evenly firmly flawlessly happy nicely perfectly poorly quickly quietly securely smoothly
    snugly solidly tightly well wonderfully worse
    """.split()
)

DETERMINERS = frozenset("the a an its his their my your our no".split())
OWNERS = frozenset("my your our his her".split())
POINTERS = frozenset("this these that those".split())
LIKING = frozenset("love loved like liked enjoy enjoyed hate dislike appreciate appreciated adore".split())
LIKERS = frozenset("i we also but and definitely do don't just really especially particularly".split()) | {""}
# a form of "be", or of a verb that tells how something is: "the tone is", "the strings last"
LINKS = frozenset(
    """
    are be became becomes been feel feels felt fit fits held hold holds is isn't keep keeps last lasts look looked looks
    play plays remain remains respond responds seem seems sit sits smell smells sound sounded sounds stand stands stay
    stays taste tastes was wasn't were work worked works
    """.split()
)
# links that are nouns by their looks: "it sounds warm" is said of the sound
SENSES = frozenset("feel feels fit fits look looks smell smells sound sounds taste tastes".split())
SUBJECTS = frozenset("it that this which".split()) | {""}  # of "sounds"
PLURAL_SUBJECTS = frozenset("both these they those".split())  # of "sound"
ADVERBS = frozenset("also always both just really still".split())  # between a subject and a link
# between a feature and what it belongs to: "the plot of this film", "this film has a plot"
BELONGING = frozenset("at for from in of on to".split())
HAVING = frozenset("had has have with".split())
# "the acting of the cast is": said of the acting, but "most of the acting is" of the acting, too
PREPOSITIONS = frozenset(
    "about around at behind between by for from in into like of on over than through to under with".split()
)
SHARES = frozenset("all any both each few half lot lots many most much none one part rest some".split())
# between a link and an opinion: "is not all that warm"
DEGREES = frozenset(
    """
    a absolutely actually all also always amazingly as bit both completely consistently definitely equally especially
    exceptionally extremely fairly far generally highly incredibly just less little more most much never not nothing
    only out overall particularly pretty quite rather really relatively remarkably simply so somewhat still super
    surprisingly the together too totally truly up usually very way
    """.split()
)
# a sentence that tells of other items, of wishes and of what came before
ELSEWHERE = frozenset(
    """
    another anyone bought compared could expect expected expecting had hope hoping if instead looking might need needed
    needs old ordered other others own owned prefer preferred previous previously purchased replaced require requires
    should someone than tried unless until used want wanted wants whether wish would wouldn't
    """.split()
)
# words that are no feature wherever they stand
FUNCTION_WORDS = (
    DETERMINERS
    | POINTERS
    | frozenset(
        """
    about above after again against ago all almost alone along already also although am among and another any anyway are
    around as at away back be because been before being below beside besides between both built but by can cannot could did do
    does doing done down during each either else enough ever every except few first for from further get gets getting
    goes going gone got had has have having he her here hers him how i if in inside instead into is it itself just later
    least less let like lots made make makes making many may maybe me might mine more most much must myself near neither never
    next nor not now of off often on once one only onto or other others otherwise out outside over own past perhaps plus
    quite rather really right same second see seem seems several shall she should since so some soon still such sure than them
    then there therefore they third though through throughout thus till to together too toward towards under unless
    until up upon us used using very via was we were what when where whether which while who whole whom whose why will
    with within without would yes yet you yours
    """.split()
    )
)
# nouns that name no feature of an item but the item, people, times, occasions and amounts
VAGUE = frozenset(
    """
    addition advantage advice alternative amazon amount anyone anything area birthday bit bits bonus boy boyfriend
    brother buck bucks budget business buy buys child children choice choices christmas combination companies
    company comparison complaint complaints compromise condition couple credit customer customers dad daughter day
    days deal deals decision delivery difference dollar dollars dozen duty end ends everyone everything example
    exception expectations experience experiences fact family fan fellow few friend friends fun future gift gifts
    girl girlfriend guy guys half hand hands help home hope hour hours husband idea ideas improvement issue issues
    item items job jobs kid kids kind lesson life lot luck man men mind minute minutes mistake mom money month
    months morning name need needs news night nothing number one ones opinion option options order orders others
    pack pair pairs part people person piece pieces place places player players point portion problem problems
    product products professional purchase purchases question questions reason reasons recommendation replacement
    rest result results review reviewer reviewers reviews sale second seconds selection seller sellers shape
    shipping side sister solution somebody someone something son sort spot spots star stars start state step store
    stores stuff surprise task team term thank thanks thing things time times tip today trick try turn type types
    upgrade use user users uses variety version versions way ways week weeks wife woman women word words work world
    year years
    """.split()
)
