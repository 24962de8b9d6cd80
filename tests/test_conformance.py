"""The conformance suite, applied to RecBole's BPR and to AMPCF in each of its forms."""

from conformance import Conformance


class TestBPR(Conformance):
    """The suite holds for a model that knows nothing of it."""

    model = "BPR"
    settings = {"embedding_size": 8}
    explains = False
    on_ml_100k = {"epochs": 25, "embedding_size": 64}


class TestAMPCF(Conformance):
    model = "AMPCF"
    settings = {"embedding_size": 8, "n_personas": 3}


class TestAMPCFSampled(Conformance):
    model = "AMPCF"
    settings = {
        "embedding_size": 8,
        "n_personas": 2,
        "variant": "conference",
        "alpha": 0.5,
        "lambda_p": 0.1,
        "lambda_n": 0.1,
        "train_neg_sample_args": {"distribution": "popularity", "sample_num": 4, "alpha": 0.75},
    }
    on_ml_100k = {"epochs": 10, "embedding_size": 32}


class TestAMPCFFixed(Conformance):
    model = "AMPCF"
    settings = {"embedding_size": 8, "n_personas": 3, "attention": "fixed", "item_bias": False}
