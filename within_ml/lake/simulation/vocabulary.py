"""Words and constants of the simulated agency: industries, themes, platforms' base rates and prices.

Data only. Effects that differ from seed to seed are drawn in `world`.
"""

from __future__ import annotations

from dataclasses import dataclass

CONSUMER, BUSINESS = 0, 1
"""Weekly rhythms."""

WEEKDAY_CTR = (
    (0.00, -0.02, -0.03, -0.01, 0.02, 0.08, 0.10),
    (0.06, 0.05, 0.04, 0.02, -0.03, -0.14, -0.12),
)
"""Logit effect on the ctr per rhythm, Monday to Sunday."""

WEEKDAY_VOLUME = (
    (0.95, 0.94, 0.95, 0.98, 1.02, 1.08, 1.08),
    (1.15, 1.18, 1.17, 1.12, 1.00, 0.70, 0.68),
)
"""Factor on impressions per rhythm, Monday to Sunday."""


@dataclass(frozen=True, slots=True)
class Platform:
    """Base click-through rate and effect on conversion rate (logit), cost per click (US dollars) of a platform."""

    ctr_logit: float
    cvr_logit: float
    cpc: float


PLATFORMS = {
    "google": Platform(-3.4, 0.0, 1.60),
    "meta": Platform(-4.3, -0.4, 0.90),
    "tiktok": Platform(-4.7, -1.2, 0.60),
}


@dataclass(frozen=True, slots=True)
class Industry:
    """An industry: ctr and cvr on the logit scale, order value in US dollars, factor on cpc, yearly season, rhythm."""

    name: str
    ctr_logit: float
    cvr_logit: float
    order_value: float
    cpc_factor: float
    season_size: float
    season_peak: int
    rhythm: int
    products: tuple[str, ...]
    interests: str
    suffix: str


INDUSTRIES = (
    Industry(
        "retail",
        0.20,
        -3.2,
        65.0,
        0.7,
        0.25,
        340,
        CONSUMER,
        ("running shoes", "winter jackets", "kitchen knives", "desk lamps", "backpacks", "bed linen"),
        "shopping,fashion,home",
        "Outfitters",
    ),
    Industry(
        "travel",
        0.30,
        -3.7,
        420.0,
        0.9,
        0.35,
        190,
        CONSUMER,
        ("beach holidays", "city breaks", "ski weekends", "family resorts", "train passes", "island flights"),
        "travel,outdoors,food",
        "Journeys",
    ),
    Industry(
        "finance",
        -0.35,
        -3.9,
        180.0,
        2.2,
        0.10,
        60,
        BUSINESS,
        ("savings accounts", "home loans", "credit cards", "tax advice", "pension plans", "car insurance"),
        "investing,business,real estate",
        "Capital",
    ),
    Industry(
        "software",
        -0.25,
        -3.5,
        240.0,
        2.6,
        0.08,
        270,
        BUSINESS,
        ("payroll software", "team calendars", "invoice tools", "security audits", "cloud backups", "help desks"),
        "technology,business,productivity",
        "Systems",
    ),
    Industry(
        "health",
        0.05,
        -3.3,
        55.0,
        1.2,
        0.20,
        15,
        CONSUMER,
        ("yoga classes", "sleep trackers", "vitamin plans", "physio visits", "gym passes", "running coaches"),
        "fitness,nutrition,wellness",
        "Wellness",
    ),
    Industry(
        "education",
        -0.05,
        -3.4,
        310.0,
        1.4,
        0.25,
        240,
        BUSINESS,
        ("language courses", "coding camps", "evening degrees", "music lessons", "exam prep", "data courses"),
        "education,careers,books",
        "Academy",
    ),
    Industry(
        "food",
        0.25,
        -2.8,
        32.0,
        0.6,
        0.12,
        345,
        CONSUMER,
        ("meal kits", "fresh coffee", "vegan snacks", "bakery boxes", "craft sodas", "spice sets"),
        "cooking,food,family",
        "Kitchen",
    ),
    Industry(
        "automotive",
        -0.10,
        -4.2,
        900.0,
        1.5,
        0.10,
        120,
        CONSUMER,
        ("electric cars", "winter tires", "test drives", "used vans", "roof racks", "oil checks"),
        "cars,technology,outdoors",
        "Motors",
    ),
)


@dataclass(frozen=True, slots=True)
class Theme:
    """What a headline appeals to: openings that take the product, closings, and a sentence for the body."""

    name: str
    hooks: tuple[str, ...]
    closers: tuple[str, ...]
    body: str


THEMES = (
    Theme(
        "urgency",
        ("Last chance for", "Ends tonight:", "Only today:", "Hurry, we are running out of"),
        ("before it is too late", "until midnight", "this week only"),
        "The offer closes soon and will not come back this year.",
    ),
    Theme(
        "savings",
        ("Save 20% on", "Half price", "Get $25 off", "Free trial of"),
        ("with no hidden fees", "for new customers", "at our lowest price"),
        "Compare the price and keep the difference.",
    ),
    Theme(
        "social proof",
        ("Loved by 40,000 customers:", "Rated 4.8 stars:", "Why your neighbors choose", "Everyone is talking about"),
        ("and you can see why", "according to real reviews", "in your town"),
        "Thousands of people told us what they think of it.",
    ),
    Theme(
        "quality",
        ("Built to last:", "Award winning", "Made by experts:", "The finest"),
        ("with a ten year guarantee", "made with care", "for people who notice"),
        "Every detail was tested before it reached you.",
    ),
    Theme(
        "curiosity",
        (
            "What nobody tells you about",
            "The surprising truth about",
            "You have never seen",
            "One small trick with",
        ),
        ("like this", "that changes everything", "and what happened next"),
        "Read the story and decide for yourself.",
    ),
    Theme(
        "question",
        ("Looking for", "Ready for", "Tired of bad", "Do you need"),
        ("near you?", "this month?", "without the stress?"),
        "Tell us what you need and we will find it together.",
    ),
)

ADJECTIVES = ("", "simple", "smart", "local", "premium", "sustainable", "new", "honest")

CALLS_TO_ACTION = ("Learn more", "Shop now", "Sign up", "Get offer", "Book now")

FORMATS = ("image", "video", "carousel")
FORMAT_CTR = (0.0, 0.12, 0.05)
"""Logit effect of each format."""

OBJECTIVES = ("conversions", "traffic", "leads", "awareness")
OBJECTIVE_CTR = (0.0, 0.15, -0.05, -0.35)
OBJECTIVE_CVR = (0.0, -0.5, 0.2, -0.8)
"""Logit effects of each objective."""

AGES = ("18-24", "25-34", "35-44", "45-54", "55+")
AGE_CTR = (0.06, 0.04, 0.0, -0.03, -0.08)
"""Logit effect of each targeted age band."""

GENDERS = ("all", "female", "male")
GENDER_CTR = (0.0, 0.02, -0.02)
"""Logit effect of each targeted gender."""

TIMEZONES = ("America/New_York", "America/Chicago", "America/Denver", "America/Los_Angeles")

NAMES = (
    "Harbor",
    "Northwind",
    "Juniper",
    "Lakeside",
    "Copper",
    "Bluebird",
    "Summit",
    "Willow",
    "Redwood",
    "Prairie",
    "Granite",
    "Orchard",
)
