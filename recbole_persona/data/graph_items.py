"""Items of knowledge graphs: those that the graph's filter removes, links to items or entities that are not there."""

import importlib

from recbole_persona.errors import UserError
from recbole_persona.upstream.repair import around


def install() -> None:
    """Data sets with a knowledge graph are read by these rules from now on."""
    KnowledgeBasedDataset = importlib.import_module("recbole.data.dataset").KnowledgeBasedDataset

    @around(KnowledgeBasedDataset, "_load_link")
    def _load_link(upstream, self, token, dataset_path):
        entity_of, item_of = upstream(self, token, dataset_path)
        for item, entity in entity_of.items():
            if item_of[entity] != item:
                raise UserError(
                    f"The column {self.entity_field!r} of {token}.link has {entity!r} for the items {item!r} and "
                    f"{item_of[entity]!r}; an entity belongs to one item."
                )
        return entity_of, item_of

    @around(KnowledgeBasedDataset, "_filter_link")
    def _filter_link(upstream, self):
        """RecBole drops the interactions of unlinked items; as rows of ``.item`` these would stay candidates."""
        before, links = set(self.inter_feat[self.iid_field]), len(self.item2entity)
        upstream(self)
        if not len(self.inter_feat):
            entities = len(self._get_entity_token())
            raise UserError(
                f"{self.dataset_name}.link leaves no interaction: none of its {links} links leads from one of the "
                f"{len(before)} items of the interactions to one of the {entities} entities of {self.dataset_name}.kg."
            )
        if self.item_feat is not None:
            removed = before.difference(self.item2entity)
            self.item_feat = self.item_feat[~self.item_feat[self.iid_field].isin(removed)]
        self._reset_index()

    @around(KnowledgeBasedDataset, "_remap_ID_all")
    def _remap_ID_all(upstream, self):
        """Ready-made splits are not filtered; a link whose item or entity the data lack must not be numbered."""
        items, entities = self._get_rec_item_token(), self._get_entity_token()
        self.item2entity = {
            item: entity for item, entity in self.item2entity.items() if item in items and entity in entities
        }
        self.entity2item = {entity: item for item, entity in self.item2entity.items()}
        upstream(self)
