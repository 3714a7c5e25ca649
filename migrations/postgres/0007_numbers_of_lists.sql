-- The numbers of lists of referrers are by chance.
--
-- A sequence goes back with a database that is restored, and a replica that runs meanwhile may have kept a page of what
-- the same number stood for. The sequence stays for those who are in the middle of a statement; a later migration drops it.
CREATE FUNCTION referrers_number() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT hashtextextended(gen_random_uuid()::text, 0)
$$;

CREATE OR REPLACE FUNCTION referrers_come() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO referrer_lists (repository_id, subject, version)
    VALUES (NEW.repository_id, NEW.subject, referrers_number())
    ON CONFLICT (repository_id, subject) DO UPDATE SET version = excluded.version;
    RETURN NULL;
END $$;

-- The row is locked before it is looked whether others are left: who adds one waits, and so does this.
CREATE OR REPLACE FUNCTION referrers_go() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE referrer_lists SET version = referrers_number()
    WHERE repository_id = OLD.repository_id AND subject = OLD.subject;
    DELETE FROM referrer_lists
    WHERE repository_id = OLD.repository_id AND subject = OLD.subject
      AND NOT EXISTS (SELECT 1 FROM referrers
                      WHERE repository_id = OLD.repository_id AND subject = OLD.subject);
    RETURN NULL;
END $$;
