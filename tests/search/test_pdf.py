"""PDF files: a page is a part that search finds."""

from motherbird.search import pdf
from motherbird.search.index import Index
from motherbird.search.lines import around


def a_pdf(*pages):
    """Return a PDF file with a line of text on each page."""
    count = len(pages)
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(count))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for n, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * n} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>",
            f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        ]
    body, starts = b"%PDF-1.4\n", []
    for number, each in enumerate(objects, 1):
        starts.append(len(body))
        body += f"{number} 0 obj\n{each}\nendobj\n".encode()
    table = "".join(f"{start:010} 00000 n \n" for start in starts)
    size = len(objects) + 1
    return (
        body
        + (
            f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\n"
            f"startxref\n{len(body)}\n%%EOF\n"
        ).encode()
    )


def test_pages_of_a_pdf(folder):
    (folder / "paper.pdf").write_bytes(a_pdf("The honey of bees", "The milk of goats"))
    (folder / "broken.pdf").write_bytes(a_pdf("The wool of sheep")[:300])
    index = Index.open(folder, None)
    found = index.search("milk goats")
    [hit] = [hit for hit in found.hits if hit.path == "paper.pdf"]
    assert (hit.symbol, hit.kind, hit.text) == ("page 2", "text", "The milk of goats")
    assert found.skipped["PDF that cannot be read"] == 1
    assert around(folder / "paper.pdf", hit.start, hit.end, 2) == (1, index.read("paper.pdf"))


def test_a_pdf_without_the_library(folder, monkeypatch):
    monkeypatch.setattr(pdf, "is_readable", lambda: False)
    (folder / "paper.pdf").write_bytes(a_pdf("The honey of bees"))
    skipped = Index.open(folder, None).search("honey").skipped
    assert skipped["PDF, which needs the package pypdf"] == 1
