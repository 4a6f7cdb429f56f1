"""Any of our models as what exports take."""

from motherbird import Embedder
from motherbird.export.models import Exportable, ExportableEmbedder


def exportable(model):
    return (ExportableEmbedder if isinstance(model, Embedder) else Exportable)(model)
