"""What a person does in a browser: opens a URL, signs in, and allows what is asked.

Follows redirects, keeps cookies, and sends each form that a page has. Stops at a page without a form, and prints
its status and its text. With `--decline` it follows the link that cancels. `SSL_CERT_FILE` names the trusted
certificates.
"""

import html.parser
import os
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
from http.cookiejar import CookieJar


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.action, self.fields, self.cancel, self.link = None, {}, None, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "form" and self.action is None:
            self.action = attributes["action"]
        elif tag == "input" and attributes.get("name"):
            self.fields[attributes["name"]] = attributes.get("value") or ""
        elif tag == "a":
            self.link = attributes.get("href")

    def handle_data(self, text):
        if "Cancel" in text:
            self.cancel = self.link


arguments = [word for word in sys.argv[1:] if word != "--decline"]
declines = "--decline" in sys.argv
url, code = arguments[0], arguments[1] if len(arguments) > 1 else None
opener = urllib.request.build_opener(
    urllib.request.ProxyHandler({}),
    urllib.request.HTTPCookieProcessor(CookieJar()),
    urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE"))),
)
form = None
for _ in range(20):
    try:
        answer = opener.open(url, form, timeout=30)
    except urllib.error.HTTPError as error:
        answer = error
    url, text = answer.url, answer.read().decode()
    page = Page(text)
    if declines and page.cancel is not None:
        parts = urllib.parse.urlsplit(url)
        added = page.cancel.removeprefix("?") if page.cancel.startswith("?") else None
        url = f"{url}&{added}" if added else urllib.parse.urljoin(url, page.cancel)
        form, declines = None, False
    elif page.action is not None and answer.status == 200:
        if "user_code" in page.fields and not page.fields["user_code"]:
            page.fields["user_code"] = code
        for name in ("login", "password"):
            if page.fields.get(name) == "":
                page.fields[name] = "person"
        url, form = urllib.parse.urljoin(url, page.action), urllib.parse.urlencode(page.fields).encode()
    else:
        print(answer.status, " ".join(text.split()))
        sys.exit()
sys.exit("there are more pages than a sign-in has")
