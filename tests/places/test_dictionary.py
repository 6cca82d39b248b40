from geo_subset.places import dictionary


def test_words_that_places_are_called_by_are_known_and_proper_names_are_not() -> None:
    words = dictionary.words()
    assert words >= {"mobile", "surprise", "normal", "hope", "reading", "springs"}
    assert not words & {"chicago", "ohio", "Mobile", "a", ""}
    assert all(word.isascii() and word.islower() for word in words)
