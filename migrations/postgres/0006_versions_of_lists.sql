-- Pages of referrers that are kept in memory: what tells whether one still holds.

CREATE SEQUENCE referrer_versions;

-- Another number after each change of a list, and none while it is empty.
CREATE TABLE referrer_lists (
    repository_id   BIGINT NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
    subject         TEXT COLLATE "C" NOT NULL,
    version         BIGINT NOT NULL,
    PRIMARY KEY (repository_id, subject)
);

CREATE FUNCTION referrers_come() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO referrer_lists (repository_id, subject, version)
    VALUES (NEW.repository_id, NEW.subject, nextval('referrer_versions'))
    ON CONFLICT (repository_id, subject) DO UPDATE SET version = excluded.version;
    RETURN NULL;
END $$;

-- The row is locked before it is looked whether others are left: who adds one waits, and so does this.
CREATE FUNCTION referrers_go() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE referrer_lists SET version = nextval('referrer_versions')
    WHERE repository_id = OLD.repository_id AND subject = OLD.subject;
    DELETE FROM referrer_lists
    WHERE repository_id = OLD.repository_id AND subject = OLD.subject
      AND NOT EXISTS (SELECT 1 FROM referrers
                      WHERE repository_id = OLD.repository_id AND subject = OLD.subject);
    RETURN NULL;
END $$;

CREATE TRIGGER referrers_come AFTER INSERT ON referrers FOR EACH ROW EXECUTE FUNCTION referrers_come();
CREATE TRIGGER referrers_go AFTER DELETE ON referrers FOR EACH ROW EXECUTE FUNCTION referrers_go();

INSERT INTO referrer_lists (repository_id, subject, version)
SELECT repository_id, subject, nextval('referrer_versions')
FROM (SELECT DISTINCT repository_id, subject FROM referrers) AS lists;
