"""Answer questions from a few documents: motherbird finds them, a language model reads them.

    pip install -c constraints.txt '.[langchain]'
    python examples/rag.py MODEL "How do I open a file?"

MODEL is a model for search: a directory of motherbird or of sentence-transformers, or a table of
static vectors (`motherbird distill static`). The language model is a stub that repeats the
documents: replace `answer` with a call of yours.
"""

import sys

from motherbird.integrations.langchain import MotherbirdEmbeddings, MotherbirdRetriever

DOCUMENTS = [
    "The function open opens a file and returns a file object.",
    "The module gzip compresses and decompresses files.",
    "The module sqlite3 is an interface to a database in a file.",
    "The method str.split divides a text into words.",
    "The module random draws random numbers.",
]


def answer(prompt: str) -> str:
    """Stand in for a language model."""
    documents = [line for line in prompt.splitlines() if line.startswith("- ")]
    return f"{len(documents)} documents were found; the best is {documents[0][2:]!r}"


def main() -> None:
    """Find documents for a question, and ask the language model with them."""
    model, question = sys.argv[1:]
    retriever = MotherbirdRetriever.from_texts(DOCUMENTS, MotherbirdEmbeddings(model), k=2)
    found = retriever.invoke(question)
    lines = "\n".join(f"- {document.page_content}" for document in found)
    prompt = f"Answer from these documents.\n{lines}\n\nQuestion: {question}\n"
    print(prompt)
    print(answer(prompt))


if __name__ == "__main__":
    main()
