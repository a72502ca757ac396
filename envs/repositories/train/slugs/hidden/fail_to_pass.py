from slugs import address, slug


def test_accents():
    assert slug("Über uns") == "uber-uns"
    assert slug("Crème brûlée") == "creme-brulee"
    assert slug("Ça va, Åsa?") == "ca-va-asa"


def test_one_text_in_two_forms():
    assert slug("Cre\u0301me") == "creme"
    assert slug("e\u0301t\u00e9") == "ete"


def test_sharp_s():
    assert slug("Straße") == "strasse"


def test_other_scripts():
    assert slug("Москва 2024") == "москва-2024"
    assert slug("東京, 日本") == "東京-日本"
    assert address("Новости", "東京") == "/новости/東京"
