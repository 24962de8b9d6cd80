"""A tokenizer trained on the data set, for backbones that start from scratch."""

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"


def trained_tokenizer(texts, words, size) -> PreTrainedTokenizerFast:
    """A byte-pair tokenizer of ``texts`` in which each of ``words`` is one token; the same texts give the same tokenizer.

    Texts are those of the training part: what is held out teaches the vocabulary nothing. A character that they lack
    becomes ``<unk>``.

    Args:
        texts: iterable of str.
        words: symbols of item codes, such as ``<a_3>``; they are found with or without a blank in front.
        size: of the vocabulary at most, the words not counted.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[PAD, EOS, UNKNOWN], show_progress=False, min_frequency=2
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(word, lstrip=True, normalized=False) for word in words])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN, clean_up_tokenization_spaces=False
    )
