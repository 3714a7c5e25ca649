-- Tokens: what they are signed with, how they are renewed, and which are over before their time.

-- Each replica makes the next key when it is due; the number is what they agree by.
CREATE TABLE signing_keys (
    number       INTEGER NOT NULL PRIMARY KEY,
    kid          TEXT NOT NULL UNIQUE,
    private_key  BLOB NOT NULL,
    signs_from   INTEGER NOT NULL,
    created_at   INTEGER NOT NULL
) STRICT;

-- The token itself is nowhere; who has it hashes to the row.
CREATE TABLE refresh_tokens (
    id           TEXT NOT NULL PRIMARY KEY,
    hash         BLOB NOT NULL UNIQUE,
    subject      TEXT NOT NULL,
    -- What was known of the subject, JSON.
    identity     TEXT NOT NULL,
    -- What it may be used for at most, as scopes; NULL if everything the subject may.
    scope        TEXT,
    -- What would end it: the password it was made with, say.
    proof        TEXT NOT NULL,
    client       TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL,
    used_at      INTEGER NOT NULL
) STRICT;
CREATE INDEX refresh_tokens_subject ON refresh_tokens (subject, id);
CREATE INDEX refresh_tokens_expires ON refresh_tokens (expires_at);

-- Access tokens that were made from a refresh token, or given to a subject, until a moment are over.
CREATE TABLE revocations (
    id           INTEGER PRIMARY KEY,
    session      TEXT,
    subject      TEXT,
    revoked_at   INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL
) STRICT;
CREATE INDEX revocations_expires ON revocations (expires_at);

-- Who began an upload; nobody else goes on with it.
ALTER TABLE uploads ADD COLUMN subject TEXT NOT NULL DEFAULT '';
