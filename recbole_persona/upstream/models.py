"""Repairs of single models, by the module in which RecBole keeps them."""
