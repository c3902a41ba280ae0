"""The schema of the results database: what was found about every latent.

    coders        one row per coder: where it sits, what was cached
    latents       one row per latent, dead and rare ones included
    strata        (latent, stratum) → its exact share v_s of the non-firing windows
    examples      coordinates in the cache; no token is stored twice
    explanations  a text or a failure
    judgements    a probability or a failure, per example
    relations     how the explanations of a latent's bands relate
    ledger        a view: the status of every latent, derived from the tables above

The ledger is derived, never stored, so it cannot disagree with the tables.
"""

from __future__ import annotations

SCHEMA_VERSION = 7

STATUSES = ("unfired", "rare", "not selected", "failed", "scored", "explained only")

# The scorers, as judgements name them.
DETECTION, FUZZING, MISPLACED, INTRUDER = "detection", "fuzzing", "misplaced", "intruder"
EMBEDDING, SURPRISAL, SIMULATION, TOKEN_BASELINE = "embedding", "surprisal", "simulation", "token_baseline"
_JUDGES = (DETECTION, FUZZING, MISPLACED, INTRUDER, EMBEDDING, SURPRISAL, SIMULATION)

SCHEMA = f"""
CREATE TABLE coders (
  coder TEXT PRIMARY KEY,
  n_layers INTEGER NOT NULL, latents_per_layer INTEGER NOT NULL,
  window_tokens INTEGER NOT NULL,
  n_tokens INTEGER NOT NULL,            -- eligible tokens that were cached
  n_excluded_tokens INTEGER NOT NULL,   -- special tokens and sinks
  n_off_grid_tokens INTEGER NOT NULL,   -- eligible, but in no window: document tails, duplicates
  n_windows INTEGER NOT NULL, n_documents INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE latents (
  coder TEXT NOT NULL, latent INTEGER NOT NULL, layer INTEGER NOT NULL,
  prefix INTEGER NOT NULL,  -- the smallest matryoshka prefix that holds it, counted from 0; 0 where there is none
  n_fired INTEGER NOT NULL, n_windows INTEGER NOT NULL,
  firing_rate REAL NOT NULL, context_rate REAL NOT NULL,
  mean_activation REAL, max_activation REAL,  -- over the tokens on which it fires
  context_dependence REAL, context_dependence_coverage REAL,
  dense INTEGER NOT NULL, positional INTEGER NOT NULL, pure_token INTEGER NOT NULL,
  rare INTEGER NOT NULL,
  selection_probability REAL,  -- NULL: not selected
  trigger TEXT,  -- the first of its triggers; NULL where these hold less than half of its firings
  PRIMARY KEY (coder, latent)
) WITHOUT ROWID;

CREATE TABLE strata (
  coder TEXT NOT NULL, latent INTEGER NOT NULL, stratum TEXT NOT NULL,
  share REAL NOT NULL, n_windows INTEGER NOT NULL, shortfall TEXT,
  PRIMARY KEY (coder, latent, stratum)
) WITHOUT ROWID;

CREATE TABLE examples (
  coder TEXT NOT NULL, latent INTEGER NOT NULL, example INTEGER NOT NULL,
  split TEXT NOT NULL, row INTEGER NOT NULL, document INTEGER NOT NULL,
  quantile INTEGER, stratum TEXT, source INTEGER, distance REAL,
  peak REAL NOT NULL, mass REAL NOT NULL,  -- the largest activation in the window, and their sum
  PRIMARY KEY (coder, latent, example),
  CHECK ((quantile IS NULL) != (stratum IS NULL))
) WITHOUT ROWID;

CREATE TABLE explanations (
  coder TEXT NOT NULL, latent INTEGER NOT NULL, explainer TEXT NOT NULL, source TEXT NOT NULL,
  text TEXT, request TEXT NOT NULL, failure TEXT, failure_detail TEXT,
  n_windows INTEGER NOT NULL, n_tokens INTEGER NOT NULL, reasoning TEXT, tried TEXT NOT NULL,  -- JSON list
  PRIMARY KEY (coder, latent, explainer, source),
  CHECK ((text IS NULL) != (failure IS NULL))
) WITHOUT ROWID;

CREATE TABLE judgements (
  coder TEXT NOT NULL, latent INTEGER NOT NULL, scorer TEXT NOT NULL, arm TEXT NOT NULL,
  explainer TEXT NOT NULL, source TEXT NOT NULL, example INTEGER NOT NULL,
  probability REAL, predicted INTEGER, request TEXT, failure TEXT, failure_detail TEXT,
  measured TEXT,  -- JSON list
  PRIMARY KEY (coder, latent, scorer, arm, explainer, source, example),
  CHECK ((predicted IS NULL AND measured IS NULL) = (failure IS NOT NULL))
) WITHOUT ROWID;
CREATE INDEX failed ON judgements (scorer, arm, failure) WHERE failure IS NOT NULL;

CREATE TABLE relations (
  coder TEXT NOT NULL, latent INTEGER NOT NULL, explainer TEXT NOT NULL, first TEXT NOT NULL, second TEXT NOT NULL,
  relation TEXT, probability REAL, cosine REAL, request TEXT, failure TEXT, failure_detail TEXT,
  PRIMARY KEY (coder, latent, explainer, first, second),
  CHECK ((relation IS NULL) = (failure IS NOT NULL))
) WITHOUT ROWID;

CREATE TABLE changes (n INTEGER NOT NULL);  -- transactions so far, so that what is derived knows of what
INSERT INTO changes VALUES (0);

CREATE VIEW verdicts AS  -- those that a latent's status depends on
SELECT j.coder, j.latent, j.failure, j.failure_detail,
       e.quantile IS NOT NULL OR j.scorer = '{INTRUDER}' AS activating,  -- beside an intruder windows are
       e.quantile IS NULL OR j.scorer = '{MISPLACED}' AS silent
FROM judgements j JOIN examples e USING (coder, latent, example)
WHERE j.arm = 'plain' AND j.scorer IN ({",".join(f"'{scorer}'" for scorer in _JUDGES)});

CREATE VIEW ledger AS
WITH found AS MATERIALIZED (  -- else the status were found anew for each column that it is behind
  SELECT coder, latent, layer, n_fired, rare, selection_probability,
    EXISTS (SELECT 1 FROM explanations x WHERE x.coder = l.coder AND x.latent = l.latent) AS asked,
    EXISTS (SELECT 1 FROM explanations x WHERE x.coder = l.coder AND x.latent = l.latent AND text IS NOT NULL) AS told,
    EXISTS (SELECT 1 FROM verdicts v WHERE v.coder = l.coder AND v.latent = l.latent) AS judged,
    EXISTS (SELECT 1 FROM verdicts v WHERE v.coder = l.coder AND v.latent = l.latent AND failure IS NULL AND activating)
    AND
    EXISTS (SELECT 1 FROM verdicts v WHERE v.coder = l.coder AND v.latent = l.latent AND failure IS NULL AND silent)
      AS scored
  FROM latents l
), known AS MATERIALIZED (
  SELECT *, CASE
      WHEN n_fired = 0 THEN 'unfired'
      WHEN rare THEN 'rare'
      WHEN selection_probability IS NULL THEN 'not selected'
      WHEN asked AND NOT told THEN 'failed'
      WHEN scored THEN 'scored'
      WHEN judged THEN 'failed'
      WHEN told THEN 'explained only'
      WHEN EXISTS (SELECT 1 FROM explanations) THEN 'failed'  -- others were explained
      ELSE 'not selected'
    END AS status,
    judged AND (told OR NOT asked) AS at_scoring
  FROM found
)
SELECT coder, latent, layer, status,
  CASE WHEN status = 'failed' THEN CASE WHEN at_scoring THEN 'score' ELSE 'explain' END END AS stage,
  CASE WHEN status = 'failed' THEN CASE
    WHEN NOT at_scoring THEN COALESCE((
      SELECT MIN(failure || ': ' || failure_detail) FROM explanations x
      WHERE x.coder = k.coder AND x.latent = k.latent
    ), 'input: nothing explains it')
    ELSE (  -- where nothing of one kind was judged, no judgement says why
      SELECT CASE
        WHEN SUM(silent) = 0 THEN 'input: there is no non-activating window to judge'
        WHEN SUM(activating) = 0 THEN 'input: there is no activating window to judge'
        ELSE MIN(failure || ': ' || failure_detail)
      END FROM verdicts v WHERE v.coder = k.coder AND v.latent = k.latent
    )
  END END AS reason
FROM known k;
"""

TABLES = ("coders", "latents", "strata", "examples", "explanations", "judgements", "relations")
