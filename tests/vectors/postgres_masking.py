"""Attempts to see a masked column at the PostgreSQL gate.

`people.ssn` and `people.email` are protected, every other column is not. A case passes when no protected value can be
recovered from anything that reached the client: refused with a clear error is a pass, so is a masked answer. The
connection must stay usable. A gate that refuses everything is no pass either: `USEFUL` must succeed.
"""

SETUP = """
CREATE TABLE people (
  id int PRIMARY KEY, name text, ssn text UNIQUE, email text, salary int CHECK (salary > 0), doc jsonb, note text
);
INSERT INTO people VALUES
  (1, 'Ada',  '123-45-6789', 'ada@example.com',  100, '{"ssn": "123-45-6789"}', 'prefers tea'),
  (2, 'Bob',  '987-65-4321', 'bob@example.com',  200, '{"k": 1}', 'card 4111 1111 1111 1111'),
  (3, 'Cleo', NULL,          'cleo@example.com', 300, NULL, NULL);
CREATE TABLE orders (id int PRIMARY KEY, person_id int REFERENCES people, total numeric(10,2));
INSERT INTO orders VALUES (10, 1, 12.50), (11, 1, 7.25), (12, 2, 99.00);
CREATE TABLE people_archive () INHERITS (people);
CREATE VIEW v_people AS SELECT id, ssn AS tax FROM people;
CREATE FUNCTION f_ssn(i int) RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT ssn FROM people WHERE id = i';
CREATE SCHEMA evil;
CREATE VIEW evil.people AS SELECT id, ssn AS note FROM public.people;
"""

#: What must never be recoverable, whole or in part.
SECRETS = ["123-45-6789", "987-65-4321", "123456789", "987654321", "ada@example.com", "bob@example.com"]

CASES = [
    # projection and name resolution
    ("alias", "SELECT ssn AS note FROM people"),
    ("whole row", "SELECT p FROM people p"),
    ("functional notation", "SELECT ssn(p) FROM people p"),
    ("TABLE command", "TABLE people"),
    ("positional rename", "SELECT c3 FROM people AS s(c1, c2, c3)"),
    ("materialised CTE", "WITH t AS MATERIALIZED (SELECT ssn k FROM people) SELECT k FROM t"),
    ("UNION second branch", "SELECT name FROM people WHERE false UNION ALL SELECT ssn FROM people"),
    ("scalar subquery", "SELECT (SELECT ssn FROM people WHERE id = 1)"),
    ("LATERAL VALUES", "SELECT l.v FROM people p, LATERAL (VALUES (p.ssn)) l(v)"),
    ("unicode identifier", 'SELECT U&"s\\0073n" FROM people'),
    ("view", "SELECT tax FROM v_people"),
    ("security definer function", "SELECT f_ssn(1)"),
    ("inheritance", "SELECT * FROM ONLY people"),
    # transformation
    ("reverse", "SELECT reverse(ssn) FROM people"),
    ("base64", "SELECT encode(convert_to(ssn, 'UTF8'), 'base64') FROM people"),
    ("split substr", "SELECT substr(ssn, 1, 5), substr(ssn, 6) FROM people"),
    ("to bigint", "SELECT replace(ssn, '-', '')::bigint FROM people"),
    ("char codes", "SELECT id, ascii(substr(ssn, g, 1)) FROM people, generate_series(1, 11) g"),
    ("md5", "SELECT md5(ssn) FROM people"),
    ("split to rows", "SELECT regexp_split_to_table(ssn, '') FROM people"),
    # aggregates, JSON, XML
    ("string_agg", "SELECT string_agg(ssn, ',') FROM people"),
    ("row_to_json", "SELECT row_to_json(p) FROM people p"),
    ("jsonb key", "SELECT jsonb_object_agg(coalesce(ssn, '-'), id) FROM people"),
    ("query_to_xml", "SELECT query_to_xml('select ssn from people', true, true, '')"),
    ("percentile_disc", "SELECT percentile_disc(0) WITHIN GROUP (ORDER BY ssn) FROM people"),
    # inference
    ("LIKE", "SELECT id FROM people WHERE ssn LIKE '123%'"),
    ("ORDER BY", "SELECT id FROM people ORDER BY ssn DESC LIMIT 1"),
    (
        "dictionary join",
        "SELECT p.id, d.v FROM people p JOIN (VALUES ('123-45-6789'), ('000-00-0000')) d(v) ON p.ssn = d.v",
    ),
    ("CASE oracle", "SELECT id, CASE WHEN ssn < '5' THEN 0 ELSE 1 END FROM people"),
    # errors and planner
    ("cast error", "SELECT ssn::int FROM people"),
    ("divide by zero oracle", "SELECT 1 / (CASE WHEN ssn LIKE '1%' THEN 0 ELSE 1 END) FROM people"),
    ("duplicate key detail", "UPDATE people SET ssn = (SELECT ssn FROM people WHERE id = 2) WHERE id = 1"),
    (
        "DO raise notice",
        "DO $$ DECLARE r text; BEGIN SELECT ssn INTO r FROM people LIMIT 1; RAISE NOTICE '%', r; END $$",
    ),
    ("EXPLAIN ANALYZE", "EXPLAIN (ANALYZE, TIMING OFF) SELECT * FROM people WHERE ssn = '123-45-6789'"),
    # channels and laundering
    ("COPY table", "COPY people TO STDOUT"),
    ("cursor", "BEGIN; DECLARE c CURSOR FOR SELECT ssn FROM people; FETCH ALL FROM c; COMMIT"),
    ("RETURNING", "UPDATE people SET id = id RETURNING ssn"),
    ("parameter status", "SELECT set_config('application_name', ssn, false) IS NULL FROM people WHERE id = 1"),
    ("multi-statement", "SELECT 1; SELECT ssn FROM people"),
    ("temp table", "CREATE TEMP TABLE tt AS SELECT ssn x FROM people; SELECT x FROM tt; DROP TABLE tt"),
]

#: (statement, expected rows as text) that must work for the same agent.
USEFUL = [
    (
        "SELECT id, name, salary FROM people ORDER BY id",
        [("1", "Ada", "100"), ("2", "Bob", "200"), ("3", "Cleo", "300")],
    ),
    ("SELECT count(*) FROM people", [("3",)]),
    (
        "SELECT p.name, sum(o.total) FROM people p JOIN orders o ON o.person_id = p.id GROUP BY 1 ORDER BY 1",
        [("Ada", "19.75"), ("Bob", "99.00")],
    ),
    (
        """WITH big AS (SELECT person_id FROM orders WHERE total > 50)
        SELECT name FROM people WHERE id IN (SELECT person_id FROM big)""",
        [("Bob",)],
    ),
    (
        "SELECT name, rank() OVER (ORDER BY salary DESC) FROM people ORDER BY 2",
        [("Cleo", "1"), ("Bob", "2"), ("Ada", "3")],
    ),
    ("SELECT upper(name), length(name), salary::numeric / 3 > 50 FROM people WHERE id = 1", [("ADA", "3", "f")]),
]
