"""The report page as a reader's browser gets it, parsed: what it says, what it must not contain, what it refers to."""

import json
import re
import shlex
from html.parser import HTMLParser

import pytest

from convatlas.reports import render_run
from convatlas.tasks.classify.metrics import Evaluation

VOID = {"meta", "br"}
HOSTILE = "<script>alert('x')</script>"


class Page(HTMLParser):
    """The elements and texts of a page; fails on tags that do not match."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.texts, self._open = [], [], []
        self.feed(html)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.texts))

    def tags(self):
        return {tag for tag, _ in self.elements}

    def values(self, name):
        return [attributes[name] for _, attributes in self.elements if name in attributes]


@pytest.fixture(scope="module")
def page(run_record_json):
    return Page(render_run(json.loads(run_record_json)))


def hostile(value):
    """The record with every string a script, and every class its own; the task is no name that a person gave."""
    match value:
        case dict():
            return {key: part if key == "task" else hostile(part) for key, part in value.items()}
        case list():
            return [hostile(part) for part in value]
        case str():
            return f"{HOSTILE}{value}"
        case _:
            return value


def test_the_sample_record_is_what_the_metrics_write(run_record):
    test = run_record["test"]
    assert json.loads(json.dumps(Evaluation.from_dict(test).to_dict())) == test


def test_the_headline_is_the_test_accuracy_with_its_images_and_interval(page):
    assert "83.33 % of 300 test images are named correctly; 95 % interval 78.70 % to 87.12 %." in page.text
    assert "The weights are those of epoch 5.5, chosen on the validation images (59.85 %)." in page.text
    assert "Top-5 accuracy99.67 %" in page.text
    assert "Test loss0.5712 nats" in page.text


def test_everything_a_reader_would_ask_about_is_there(page, run_record):
    for words in [
        "vgg11_bn_cifar on insects",
        "Simonyan & Zisserman 2014, arXiv 1409.1556",
        "9,231,114",
        "Train2,430 images",
        "Validation270 images",
        "the name says GIF, the content is HTML",
        run_record["data"]["fingerprint"],
        "Split with seed 0",
        "optimizer.learning_rate",
        "flip p=0.5 · shift fraction=0.125 fill=reflect",
        "0.4914, 0.4822, 0.4465",
        "Intel Xeon, 2 cores",
        "2 of 3,002 files could not be read and were skipped.",
        "2 min 28 s",
    ]:
        assert words in page.text, words


def test_classes_are_listed_weakest_first(page, run_record):
    weakest_first = sorted(run_record["test"]["per_class"], key=lambda score: score["f1"])
    table = page.text[page.text.index("weakest first") : page.text.index("Data: insects")]
    assert re.findall("|".join(run_record["data"]["classes"]), table) == [score["name"] for score in weakest_first]
    assert "butterflies48" in table.replace(" ", "")


def test_the_most_frequent_mistakes_are_named(page):
    rows = page.text[page.text.index("Most frequent mistakes") :]
    assert re.search(r"wasps\s*butterflies\s*14\s*23\.33 %\s*butterflies\s*wasps\s*8\s*16\.67 %", rows)


def test_figures_are_inline_and_described(page):
    drawings = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert [drawing["role"] for drawing in drawings] == ["img"] * 3
    descriptions = [drawing["aria-label"] for drawing in drawings]
    assert descriptions[0].startswith("Accuracy by epoch")
    assert descriptions[1].startswith("Loss by epoch")
    assert descriptions[2] == "Confusion matrix of 6 classes: 250 of 300 images correct"


def test_the_page_asks_for_nothing_outside_itself(run_record):
    html = render_run(run_record)
    page = Page(html)
    assert page.tags().isdisjoint({"script", "link", "iframe", "object", "embed", "form", "img"})
    addresses = page.values("src") + page.values("href") + page.values("xlink:href") + page.values("srcset")
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in addresses)
    assert not re.search(r"@import|url\((?!#)", html)
    assert any("default-src 'none'" in content for content in page.values("content"))


def test_identifiers_are_unique_and_references_arrive(page):
    identifiers = page.values("id")
    assert len(identifiers) == len(set(identifiers))
    references = page.values("aria-labelledby")
    references += [address[1:] for address in page.values("xlink:href") if address.startswith("#")]
    references += [path.removeprefix("url(#").removesuffix(")") for path in page.values("clip-path")]
    assert references
    assert set(references) <= set(identifiers)


def test_tables_have_headers_for_their_rows_and_columns(page):
    scopes = [attributes.get("scope") for tag, attributes in page.elements if tag == "th"]
    assert None not in scopes
    assert {"row", "col"} <= set(scopes)


def test_names_that_look_like_markup_are_shown_not_run(run_record):
    html = render_run(hostile(run_record))
    page = Page(html)
    assert "script" not in page.tags()
    assert f"{HOSTILE}wasps" in page.text
    assert f"{HOSTILE}train/ants/imageNotFound.gif" in page.text
    assert f"{HOSTILE}sgd" in page.text


def test_bytes_that_are_no_text_do_not_break_the_page(run_record):
    run_record["data"]["skipped"] = [["train/\udcff\x00.jpg", "unreadable"]]
    run_record["test"]["classes"][0] = run_record["test"]["per_class"][0]["name"] = "ants\udcfe\x1b"
    page = Page(render_run(run_record).encode("utf-8").decode("utf-8"))
    assert "train/��.jpg" in page.text
    assert "ants��" in page.text


def test_without_test_images_the_headline_is_the_validation_accuracy_and_says_so(run_record):
    run_record["test"] = None
    page = Page(render_run(run_record))
    assert "59.85 % of 270 validation images are named correctly after epoch 5.5." in page.text
    assert "There is no result on test images." in page.text
    assert "What is taken for what" not in page.text


def test_a_run_stopped_before_its_first_epoch_still_has_a_page(run_record):
    run_record.update(test=None, best=None, history=[], findings=[])
    page = Page(render_run(run_record))
    assert "No accuracy yet: training stopped before the first validation." in page.text
    assert "svg" not in page.tags()
    assert "Worth knowing" not in page.text


def test_a_faultless_classifier_has_no_mistakes_to_list(run_record):
    confusion = [[10 if i == j else 0 for j in range(6)] for i in range(6)]
    run_record["test"]["confusion"] = confusion
    run_record["test"]["n"] = run_record["test"]["correct"] = 60
    assert "Not one of the 60 test images is taken for another class." in Page(render_run(run_record)).text


def test_two_classes_do_not_boast_of_a_top_1_beside_the_accuracy(run_record):
    run_record["test"].update(k=1)
    assert "Top-" not in Page(render_run(run_record)).text


def test_commands_can_be_pasted_whatever_the_run_is_called(run_record):
    run_record["run_path"] = "my runs/it's; rm -rf"
    section = Page(render_run(run_record)).text.partition("Use it ")[2]
    predict = re.search(r"convatlas predict .*?photo\.jpg", section)[0]
    assert shlex.split(predict) == ["convatlas", "predict", "my runs/it's; rm -rf", "photo.jpg"]
    resume = re.search(r"convatlas train .*?--epochs \d+", section)[0]
    assert shlex.split(resume) == ["convatlas", "train", "--resume", "my runs/it's; rm -rf", "--epochs", "11"]
    assert 'convatlas.load("my runs/it\'s; rm -rf").predict("photo.jpg")' in section


def test_the_same_record_gives_the_same_page(run_record):
    assert render_run(run_record) == render_run(run_record)


def test_without_a_test_set_the_page_shows_the_validation_and_says_what_it_is_worth(run_record_json):
    record = json.loads(run_record_json)
    record |= {"validation": record["test"], "test": None}
    page = Page(render_run(record))
    assert "These images chose the weights, so the figures flatter" in page.text
    assert "Most frequent mistakes on the validation images" in page.text
    assert "Class by class" in page.text


def test_accuracy_stands_beside_guessing(page):
    assert "Always answering wasps would give 20.0" in page.text
    assert "Balanced accuracy" in page.text
