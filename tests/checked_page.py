"""A page of HTML that is taken apart: what its tags, attributes and text are, and whether every tag is closed."""

from html.parser import HTMLParser

VOID = {"meta", "br", "wbr", "img", "link"}
UNREAD = ("style", "script")


class Checker(HTMLParser):
    """Fails where a tag is closed that is not the last one opened, and keeps tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.tags, self.said = [], [], [], []
        self.feed(text)
        self.close()
        self.text = "".join(self.said)

    @property
    def ids(self):
        return [value for _, name, value in self.attributes if name == "id"]

    @property
    def links(self):
        return [value for tag, name, value in self.attributes if (tag, name) == ("a", "href")]

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not (self.open and self.open[-1] in UNREAD):
            self.said.append(data)
