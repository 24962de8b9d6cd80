"""The conformance suite, applied to RecBole's BPR and to AMPCF in each of its forms."""

from conformance import Conformance


class TestBPR(Conformance):
    """The suite holds for a model that knows nothing of it."""

    model = "BPR"
    settings = {"embedding_size": 8}
    explains = False
    against_pop = {"epochs": 30, "embedding_size": 32, "learning_rate": 0.01}


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
    against_pop = None


class TestAMPCFFixed(Conformance):
    model = "AMPCF"
    settings = {"embedding_size": 8, "n_personas": 3, "attention": "fixed", "item_bias": False}
    against_pop = None


class TestPeaPOD(Conformance):
    model = "PeaPOD"
    settings = {
        "backbone": "scratch:tiny",
        "backbone_dropout": 0.0,
        "rank_by": "score",
        "whole_words": False,
        "user_vector_size": 8,
        "n_neighbours": 4,
        "n_heads": 2,
        "epochs": 3,
    }
    against_pop = None
