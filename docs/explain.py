"""Writes docs/explain.md, its output and figures included: python docs/explain.py (a few minutes on one core)."""

import os
from collections import Counter
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch

import recbole_persona
from recbole_persona.cli import main
from recbole_persona.cli.explain import CLOSE
from recbole_persona.config import shipped
from recbole_persona.data.titles import item_texts
from recbole_persona.evaluate.faithfulness import faithfulness
from recbole_persona.runner.inference import explain
from recbole_persona.runner.naming import MIN_Z, class_scores, history_parts
from recbole_persona.runner.people import KnownUsers, active_users
from recbole_persona.runner.persona_reasons import persona_histories
from recbole_persona.runner.ranking import top_items

PAGE = Path(__file__).with_suffix(".md")
PLANTED = {"n_personas": 4, "embedding_size": 4, "reg_weight": 0.1, "stopping_step": 4}

TEXT = """\
# Why this item?

<!-- written by `python docs/explain.py`; edit that file -->

A run of AMPCF knows a user as K personas. For every candidate the model itself decides how much each of them has to say,
and these weights are the explanation: they are the numbers that made the score, not a story told afterwards.

```bash
python run_recbole_persona.py --model=AMPCF --dataset=ml-100k --run_dir=runs/films
recbole-persona explain --run=runs/films --user=$user --topk=5
```

```text
$explain
```

## How to read it

- **The personas** of the user, each with the number of training interactions for which it has the largest weight. An index
  means nothing beyond one user: persona 0 of two users are two different things.
- **The columns 0 1 2 3** are the weights of all personas for this item, from `▁` (0) to `█` (1). They sum to one.
- **$share** is the weight of the persona that has the most to say. When another one has at least $close of that, it is named,
  too: there is no single reason then.
- **because you watched**: the training interactions that this persona attends to most, that is, with the largest weight of
  *this persona* when the model scores *them*. They belong to the persona, so they are the same for all items for which
  it speaks. Only interactions for which the persona has at least its even share 1/K are listed; when there is none, the line
  says so.
- **The name** of a persona is made of genres that its part of the history has more of than the rest: log-odds with the
  whole history as prior, at least $z standard deviations (Monroe, Colaresi and Quinn, "Fightin' Words", 2008). Without such
  a genre it is named after its foremost item, *like …*; with no interaction of its own it is *rarely used*. Two personas of
  a user never share a name.
- **score** is the model's score, as `recommend` gives it, and its place is that among the items not seen before.

Items seen before, in any part of the split, are never recommended. `--items=50,181` explains these, seen or not.
Titles and genres are read from the `.item` file when they are shown; the model was trained on ids alone. Which columns
hold them is seen from their names (`title`, `movie_title`, `name`, …; `class`, `genre`, `category`, …), or said by
`--title_field` and `--class_field`.

## Somebody new

`--history` takes the items of a person who is not in the data set. AMPCF learns personas from them by its own loss, with
the items as they are. (`recommend --history` also works for sequential models that read items alone.)

```bash
recbole-persona explain --run=runs/films --history=$history --topk=3
```

```text
$new
```

## As data

`--json`, and in Python `recbole_persona.explain(run_dir, user, topk=10)`, give a list of

```text
$data
```

`recommend` has `persona` and `share` as two columns more:

```bash
recbole-persona recommend --run=runs/films --user=$user,186 --topk=2 --format=csv   # or jsonl; --out=FILE; --users=FILE; --all
```

```text
$recommend
```

## What is claimed

Each figure was measured by the script that wrote this page: ml-100k, shipped settings (test NDCG@10 $ndcg), the first ten
recommendations of all $users users, unless said otherwise.

- **The weights made the score.** They pool the personas to the vector whose score is the model's: the two scores differ
  by $difference at most.
- **The persona that is named carries the score.** Without it the score drops by $drop; without a random vector of the
  same length by $random, without another persona by $other. These drops are smaller than that of the named persona in
  $below_random and $below_other of the recommendations. (With the shipped attention, a softmax of the personas' own scores,
  the heaviest persona also adds the most, by construction; `variant: conference` has no such guarantee.)
- **A name says more than chance.** $named of the $personas personas with at least one interaction get a genre, and $shuffled
  when each user's interactions are shuffled among the personas.
- **Where the truth is known, the name is right.** On planted data ([planted personas](planted_personas.md)), $right of $planted
  recommended items are of the taste whose genre names the persona that spoke; the genres of the user's other personas fit $wrong.
- **A new user gets the personas that training would have learned.** Of the first ten for $folded users who were folded in
  from their training interactions, $overlap are among the first ten of their trained personas; of the ten most popular
  unseen items, $popular.

`explain --faithfulness` prints the second figures for the recommendations at hand:

```text
$faithfulness
```

## What is not claimed

- That a person has these personas. They are what this model, with this K and this seed, learned from clicks; another seed
  finds others, and with `attention: uniform` or K = 1 the weights say nothing.
- That the listed interactions caused the recommendation. They show what the persona stands for; leaving one out and
  training again may change little.
- That a name describes a persona fully. It is a label from the genres at hand; the model never saw them.
- That every recommendation has one reason. Where the weights are even, the page shows it, and the name means little.
"""


def shown(*arguments) -> str:
    """What a command prints."""
    os.environ["COLUMNS"] = "80"
    screen = StringIO()
    with redirect_stdout(screen):
        assert main(list(arguments)) == 0
    return "\n".join(line.rstrip() for line in screen.getvalue().strip("\n").splitlines())


@torch.no_grad()
def best_pairs(loaded, people):
    """The first ten recommendations of everybody as (user, item) rows of the model."""
    members = np.arange(len(people.labels))
    items = top_items(people.scores(members), people.seen(members), 10).indices
    return people.pairs(members.repeat(10), items.flatten())


def measured_weights(loaded, people) -> dict:
    pairs = best_pairs(loaded, people)
    with torch.no_grad():
        pooled = loaded.model.score_pooled(pairs, loaded.model.explain(pairs).pooled)
        difference = (pooled - loaded.model.predict(pairs)).abs().max().item()
    top, random, other = faithfulness(loaded.model, pairs).itertuples()
    return {
        "difference": f"{difference:.1e}",
        "drop": f"{top.drop:.2f}",
        "random": f"{random.drop:.3f}",
        "other": f"{other.drop:.2f}",
        "below_random": f"{random.below_top:.1%}",
        "below_other": f"{other.below_top:.1%}",
    }


@torch.no_grad()
def measured_names(loaded, people) -> dict:
    """Personas that get a genre, with their own items and with shuffled ones."""
    texts, rng = item_texts(loaded.config), np.random.default_rng(0)
    named = {"named": [], "shuffled": []}
    for user in people.ids:
        one = KnownUsers(loaded, np.array([user]))
        history = one.history()
        if not len(history):
            continue
        weights, _ = persona_histories(loaded.model, one, history)
        classes = texts.classes_of(loaded.dataset.id2token(loaded.dataset.iid_field, history))
        known = sorted({name for row in classes for name in row})
        has = np.array([[name in row for name in known] for row in classes], dtype=float)
        parts = history_parts(weights)
        for key, some in (("named", parts), ("shuffled", rng.permutation(parts))):
            found = (class_scores(some, has) >= MIN_Z).any(axis=1)
            named[key] += found[parts.sum(axis=0) > 0].tolist()
    return {key: f"{np.mean(values):.0%}" for key, values in named.items()} | {"personas": len(named["named"])}


@torch.no_grad()
def measured_truth(run_dir) -> dict:
    """On planted personas: is the item of a taste that the persona's name has the genre of?"""
    truth = pd.read_csv(shipped("dataset") / "planted-personas" / "truth_items.tsv", sep="\t").set_index("item_id")[
        "taste"
    ]
    texts = item_texts(recbole_persona.load(run_dir).config)
    votes = {}
    for item, taste in truth.items():
        votes.setdefault(taste, Counter()).update(texts.classes[item])
    genre = {taste: counter.most_common(1)[0][0] for taste, counter in votes.items()}
    genres, rng = set(genre.values()), np.random.default_rng(0)
    right, wrong = [], []
    for user in rng.choice(np.arange(1, 801), size=100, replace=False):
        for reason in explain(run_dir, f"u{user}"):
            named = [set(p["name"].split(" & ")) for p in reason["personas"] if set(p["name"].split(" & ")) <= genres]
            own = set(reason["name"].split(" & "))
            if own <= genres and len(named) > 1:
                others = [name for name in named if name != own]
                right.append(genre[truth[reason["item"]]] in own)
                wrong.append(np.mean([genre[truth[reason["item"]]] in name for name in others]))
    return {"right": f"{np.mean(right):.0%}", "planted": len(right), "wrong": f"{np.mean(wrong):.0%}"}


def measured_folding(loaded, people) -> dict:
    model, train = loaded.model, loaded.train_data._dataset.inter_matrix(form="csr")
    users = people.ids[:: len(people.ids) // 100]
    personas = model.fold_in([train[user].indices for user in users])
    popular = torch.tensor(np.asarray(train.sum(axis=0))).float().repeat(len(users), 1)
    with torch.no_grad():
        scores = [model.score_all(personas), model.score_all(model.personas(torch.as_tensor(users))), popular]
    for some in scores:
        some[:, 0] = -torch.inf
    folded, trained, popular = (top_items(some, train[users].nonzero(), 10).indices.numpy() for some in scores)
    overlap, by_popularity = (
        np.mean([len(set(one) & set(other)) / 10 for one, other in zip(tens, trained)]) for tens in (folded, popular)
    )
    return {"folded": len(users), "overlap": f"{overlap:.0%}", "popular": f"{by_popularity:.0%}"}


def write(folder) -> None:
    """Train in ``folder``, then write the page."""
    torch.set_num_threads(1)
    user, history = "196", "50,181,172,313,258"
    films = recbole_persona.run("AMPCF", "ml-100k", config_dict={"run_dir": f"{folder}/films"})
    planted = recbole_persona.run("AMPCF", "planted-personas", config_dict=PLANTED | {"run_dir": f"{folder}/planted"})
    run_dir = f"--run={films['run_dir']}"
    loaded = recbole_persona.load(films["run_dir"])
    people = KnownUsers(loaded, active_users(loaded))
    values = {
        "user": user,
        "history": history,
        "close": f"{CLOSE:.0%}",
        "z": MIN_Z,
        "ndcg": f"{films['test_result']['ndcg@10']:.4f}",
        "users": len(people.ids),
        "share": f"{explain(films['run_dir'], user, topk=1)[0]['share']:.0%}",
        "explain": shown("explain", run_dir, f"--user={user}", "--topk=5"),
        "new": shown("explain", run_dir, f"--history={history}", "--topk=3"),
        "data": shown("explain", run_dir, f"--user={user}", "--topk=1", "--json"),
        "recommend": shown("recommend", run_dir, f"--user={user},186", "--topk=2", "--format=csv"),
        "faithfulness": shown("explain", run_dir, f"--user={user}", "--faithfulness").split("\n\n")[-1],
        **measured_weights(loaded, people),
        **measured_names(loaded, people),
        **measured_truth(planted["run_dir"]),
        **measured_folding(loaded, people),
    }
    text = TEXT
    for name in sorted(values, key=len, reverse=True):  # $users before $user
        text = text.replace(f"${name}", str(values[name]))
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        write(folder)
