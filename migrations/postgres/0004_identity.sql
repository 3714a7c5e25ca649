-- Tokens: what they are signed with, how they are renewed, and which are over before their time.

-- Each replica makes the next key when it is due; the number is what they agree by.
CREATE TABLE signing_keys (
    number       BIGINT NOT NULL PRIMARY KEY,
    kid          TEXT COLLATE "C" NOT NULL UNIQUE,
    private_key  BYTEA NOT NULL,
    signs_from   BIGINT NOT NULL,
    created_at   BIGINT NOT NULL
);

-- The token itself is nowhere; who has it hashes to the row.
CREATE TABLE refresh_tokens (
    id           TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    hash         BYTEA NOT NULL UNIQUE,
    subject      TEXT COLLATE "C" NOT NULL,
    -- What was known of the subject, JSON.
    identity     TEXT COLLATE "C" NOT NULL,
    -- What it may be used for at most, as scopes; NULL if everything the subject may.
    scope        TEXT COLLATE "C",
    -- What would end it: the password it was made with, say.
    proof        TEXT COLLATE "C" NOT NULL,
    client       TEXT COLLATE "C" NOT NULL,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL,
    used_at      BIGINT NOT NULL
);
CREATE INDEX refresh_tokens_subject ON refresh_tokens (subject, id);
CREATE INDEX refresh_tokens_expires ON refresh_tokens (expires_at);

-- Access tokens that were made from a refresh token, or given to a subject, until a moment are over.
CREATE TABLE revocations (
    id           BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    session      TEXT COLLATE "C",
    subject      TEXT COLLATE "C",
    revoked_at   BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL
);
CREATE INDEX revocations_expires ON revocations (expires_at);

-- Who began an upload; nobody else goes on with it.
ALTER TABLE uploads ADD COLUMN subject TEXT COLLATE "C" NOT NULL DEFAULT '';
