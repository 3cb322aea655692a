//! Changes that somebody else makes to the file, by SQL. `before` is the same store earlier in the
//! sale, `other` the store of another sale with another key.

/// Name and statements.
pub const CHANGES: &[(&str, &str)] = &[
    // A queued order.
    ("queued user", "UPDATE orders SET user = 'eve' WHERE user = 'ivy'"),
    ("queued quantity", "UPDATE orders SET quantity = 1 WHERE user = 'ivy'"),
    ("queued quantity 200", "UPDATE orders SET quantity = 200 WHERE user = 'ivy'"),
    ("queued quantity as text", "UPDATE orders SET quantity = 'two' WHERE user = 'ivy'"),
    ("queued accepted_at", "UPDATE orders SET accepted_at = accepted_at - 1 WHERE user = 'ivy'"),
    ("queued decided_at", "UPDATE orders SET decided_at = decided_at + 1 WHERE user = 'ivy'"),
    ("queued accepted_at negative", "UPDATE orders SET accepted_at = -1 WHERE user = 'ivy'"),
    ("queued id", "UPDATE orders SET id = randomblob(16) WHERE user = 'ivy'"),
    ("queued id too short", "UPDATE orders SET id = x'00' WHERE user = 'ivy'"),
    ("queued trace", "UPDATE orders SET trace = x'0011' WHERE user = 'ivy'"),
    ("queued seal", "UPDATE orders SET seal = zeroblob(8) WHERE user = 'ivy'"),
    ("queued to sold", "UPDATE orders SET state = 20 WHERE user = 'ivy'"),
    ("queued to dead-lettered", "UPDATE orders SET state = 11 WHERE user = 'ivy'"),
    ("queued to no state", "UPDATE orders SET state = 77 WHERE user = 'ivy'"),
    ("queued to the end of the line", "UPDATE orders SET place = place + 50 WHERE user = 'ivy'"),
    ("queued before all", "UPDATE orders SET place = -place WHERE user = 'ivy'"),
    (
        "queued to another item",
        "UPDATE orders SET place = (SELECT max(place) + 1 FROM orders WHERE place >> 32 =
            (SELECT no FROM items WHERE id = 'part')) WHERE user = 'ivy'",
    ),
    (
        "queued places swapped",
        "UPDATE orders SET place = -1 WHERE user = 'ivy';
         UPDATE orders SET place = place - 1 WHERE user = 'joe';
         UPDATE orders SET place = (SELECT place + 1 FROM orders WHERE user = 'joe')
            WHERE user = 'ivy'",
    ),
    ("queued deleted", "DELETE FROM orders WHERE user = 'ivy'"),
    (
        "queued deleted, counters lowered",
        "DELETE FROM orders WHERE user = 'joe';
         UPDATE items SET arrivals = arrivals - 1 WHERE id = 'line';
         UPDATE counts SET accepted = accepted - 1",
    ),
    (
        "queued deleted as if moved",
        "DELETE FROM orders WHERE user = 'joe'; UPDATE items SET moved = moved + 1 WHERE id = 'line';
         UPDATE counts SET accepted = accepted - 1",
    ),
    (
        "queued slipped in",
        "INSERT INTO orders SELECT place + 1, randomblob(16), 'eve', 1, accepted_at, 10, decided_at,
            zeroblob(8), NULL FROM orders WHERE user = 'joe';
         UPDATE items SET arrivals = arrivals + 1 WHERE id = 'line';
         UPDATE counts SET accepted = accepted + 1",
    ),
    (
        "queued slipped in behind the place of all items",
        "INSERT INTO orders SELECT (77 << 32) + 1, randomblob(16), 'eve', 1, accepted_at, 10,
            decided_at, zeroblob(8), NULL FROM orders WHERE user = 'joe'",
    ),
    // A decided order.
    ("sold user", "UPDATE orders SET user = 'eve' WHERE user = 'ann' AND state = 20"),
    ("sold quantity", "UPDATE orders SET quantity = 1 WHERE user = 'ann' AND quantity = 2"),
    ("sold quantity 200", "UPDATE orders SET quantity = 200 WHERE user = 'ann' AND quantity = 2"),
    ("sold accepted_at", "UPDATE orders SET accepted_at = accepted_at - 1 WHERE state = 20"),
    ("sold decided_at", "UPDATE orders SET decided_at = decided_at + 1 WHERE state = 20"),
    ("sold trace", "UPDATE orders SET trace = x'00' WHERE state = 20"),
    ("sold id", "UPDATE orders SET id = randomblob(16) WHERE user = 'ann' AND quantity = 2"),
    ("sold seal", "UPDATE orders SET seal = randomblob(8) WHERE user = 'ann' AND quantity = 2"),
    ("sold seal as text", "UPDATE orders SET seal = 'abc' WHERE user = 'ann' AND quantity = 2"),
    ("sold to rejected", "UPDATE orders SET state = 21 WHERE user = 'ann' AND quantity = 2"),
    ("sold to queued", "UPDATE orders SET state = 10 WHERE user = 'ann' AND quantity = 2"),
    (
        "sold to queued without a seal",
        "UPDATE orders SET state = 10, decided_at = accepted_at, seal = zeroblob(8)
         WHERE user = 'ann' AND quantity = 2",
    ),
    (
        "sold to queued, units given back",
        "UPDATE orders SET state = 10, decided_at = accepted_at, seal = zeroblob(8)
         WHERE user = 'ann' AND quantity = 2;
         UPDATE items SET sold = sold - 2, free = free + 2, decided = decided - 1
         WHERE id = 'part';
         UPDATE counts SET decided = decided - 1;
         UPDATE decisions SET orders = orders - 1 WHERE state = 20",
    ),
    ("sold deleted", "DELETE FROM orders WHERE user = 'ann' AND quantity = 2"),
    (
        "sold deleted, counters lowered",
        "DELETE FROM orders WHERE user = 'eve' AND state = 20;
         UPDATE items SET sold = sold - 2, free = free + 2, arrivals = arrivals - 1,
            decided = decided - 1 WHERE id = 'part';
         UPDATE counts SET decided = decided - 1, accepted = accepted - 1;
         UPDATE decisions SET orders = orders - 1 WHERE state = 20",
    ),
    (
        "sold rows swapped in their places",
        "UPDATE orders SET place = -1 WHERE user = 'ann' AND quantity = 2;
         UPDATE orders SET place = place - 1 WHERE user = 'bob' AND place >> 32 =
            (SELECT no FROM items WHERE id = 'part');
         UPDATE orders SET place = (SELECT place + 1 FROM orders WHERE user = 'bob'
            AND place >> 32 = (SELECT no FROM items WHERE id = 'part')) WHERE place = -1",
    ),
    (
        "sold to another item",
        "UPDATE orders SET place = (SELECT (no << 32) + arrivals + 1 FROM items WHERE id = 'shut')
         WHERE user = 'eve' AND state = 20",
    ),
    (
        "sold twice by a copy",
        "INSERT INTO orders SELECT place + 1, randomblob(16), user, quantity, accepted_at, state,
            decided_at, seal, trace FROM orders WHERE user = 'eve' AND state = 20",
    ),
    (
        "buyers swapped",
        "UPDATE orders SET user = CASE user WHEN 'ann' THEN 'bob' ELSE 'ann' END
         WHERE place >> 32 = (SELECT no FROM items WHERE id = 'single')",
    ),
    (
        "seals swapped",
        "CREATE TEMP TABLE s AS SELECT place, seal FROM orders WHERE state = 20;
         UPDATE orders SET seal = (SELECT seal FROM s WHERE s.place > orders.place
            ORDER BY s.place LIMIT 1) WHERE place = (SELECT min(place) FROM s)",
    ),
    ("rejected to sold", "UPDATE orders SET state = 20 WHERE state = 21"),
    (
        "rejected to queued without a seal",
        "UPDATE orders SET state = 10, decided_at = accepted_at, seal = zeroblob(8)
         WHERE user = 'hal'",
    ),
    (
        "rejected to queued, counters lowered",
        "UPDATE orders SET state = 10, decided_at = accepted_at, seal = zeroblob(8)
         WHERE user = 'hal';
         UPDATE items SET decided = decided - 1 WHERE id = 'line';
         UPDATE counts SET decided = decided - 1;
         UPDATE decisions SET orders = orders - 1 WHERE state = 22",
    ),
    ("rejected deleted", "DELETE FROM orders WHERE user = 'bob' AND state = 25"),
    (
        "rejected deleted, arrivals lowered",
        "DELETE FROM orders WHERE user = 'bob' AND state = 25;
         UPDATE items SET arrivals = arrivals - 1 WHERE id = 'shut'",
    ),
    (
        "rejected deleted, counters lowered",
        "DELETE FROM orders WHERE user = 'bob' AND state = 25;
         UPDATE items SET arrivals = arrivals - 1, decided = decided - 1 WHERE id = 'shut';
         UPDATE counts SET accepted = accepted - 1, decided = decided - 1;
         DELETE FROM decisions WHERE state = 25",
    ),
    ("other reason", "UPDATE orders SET state = 21 WHERE state = 22"),
    ("expired to queued", "UPDATE orders SET state = 10 WHERE state = 24"),
    ("dropped to queued", "UPDATE orders SET state = 10 WHERE state = 26"),
    ("dropped to dead-lettered", "UPDATE orders SET state = 11 WHERE state = 26"),
    ("dropped to sold", "UPDATE orders SET state = 20 WHERE state = 26"),
    ("dead-lettered to dropped", "UPDATE orders SET state = 26 WHERE state = 11"),
    ("dead-lettered to queued", "UPDATE orders SET state = 10 WHERE state = 11"),
    ("dead-lettered to sold", "UPDATE orders SET state = 20 WHERE state = 11"),
    ("dead-lettered deleted", "DELETE FROM orders WHERE state = 11"),
    (
        "dead-lettered deleted as if redriven",
        "DELETE FROM orders WHERE state = 11; DELETE FROM dead_letters;
         UPDATE items SET moved = moved + 1, dead = dead - 1 WHERE id = 'line';
         UPDATE counts SET dead_lettered = dead_lettered - 1, accepted = accepted - 1, letters = letters - 1",
    ),
    // An item.
    ("item id", "UPDATE items SET id = 'renamed' WHERE id = 'part'"),
    ("item ids swapped", "UPDATE items SET id = 'x' WHERE id = 'single';
        UPDATE items SET id = 'single' WHERE id = 'other';
        UPDATE items SET id = 'other' WHERE id = 'x'"),
    ("item no", "UPDATE items SET no = 99 WHERE id = 'part'"),
    ("item no huge", "UPDATE items SET no = 9223372036854775807 WHERE id = 'part'"),
    ("item no with its orders", "UPDATE items SET no = 99 WHERE id = 'other';
        UPDATE orders SET place = (99 << 32) + 1 WHERE user = 'dan' AND quantity = 1"),
    ("item stock", "UPDATE items SET stock = stock + 1, free = free + 1 WHERE id = 'part'"),
    ("item stock as text", "UPDATE items SET stock = 'much' WHERE id = 'part'"),
    ("item units", "UPDATE items SET free = free + 1, sold = sold - 1 WHERE id = 'part'"),
    ("item held", "UPDATE items SET free = free - 1, held = held + 1 WHERE id = 'part'"),
    ("item owner", "UPDATE items SET owner = 'bob' WHERE id = 'single'"),
    ("item owner gone", "UPDATE items SET owner = NULL WHERE id = 'single'"),
    ("item owner made up", "UPDATE items SET owner = 'eve' WHERE id = 'part'"),
    ("item version", "UPDATE items SET version = version + 1 WHERE id = 'part'"),
    ("item unlisted", "UPDATE items SET version = 0 WHERE id = 'shut'"),
    ("item arrivals", "UPDATE items SET arrivals = arrivals + 1 WHERE id = 'part'"),
    ("item moved", "UPDATE items SET moved = 1, arrivals = arrivals + 1 WHERE id = 'part'"),
    ("item moved beyond", "UPDATE items SET moved = 1000 WHERE id = 'part'"),
    ("item restocked_at", "UPDATE items SET restocked_at = restocked_at + 1 WHERE id = 'line'"),
    ("item restocked", "UPDATE items SET restocked_at = 5 WHERE id = 'out'"),
    ("item closed", "UPDATE items SET closed_at = 5 WHERE id = 'part'"),
    ("item opened", "UPDATE items SET closed_at = NULL WHERE id = 'shut'"),
    ("item decided", "UPDATE items SET decided = decided - 1 WHERE id = 'part'"),
    ("item dead", "UPDATE items SET dead = dead - 1 WHERE id = 'line'"),
    ("item mac_from", "UPDATE items SET mac_from = 1000000 WHERE id = 'part'"),
    ("item mac", "UPDATE items SET mac = randomblob(8) WHERE id = 'part'"),
    ("item mac as text", "UPDATE items SET mac = 'x' WHERE id = 'part'"),
    ("item without a mac", "UPDATE items SET mac = NULL WHERE id = 'part'"),
    ("item deleted", "DELETE FROM items WHERE id = 'part'"),
    ("item without orders deleted", "DELETE FROM items WHERE id = 'empty'"),
    ("item slipped in", "INSERT INTO items (id, stock, free, version) VALUES ('new', 5, 5, 1)"),
    (
        "item slipped in as an old one",
        "INSERT INTO items (id, stock, free, version) VALUES ('new', 5, 5, 1);
         UPDATE counts SET writes = writes + 1, old_items = 1",
    ),
    // Back to the old rule.
    (
        "item made an old one and changed",
        "UPDATE items SET mac = NULL, owner = 'bob' WHERE id = 'single';
         UPDATE counts SET old_items = 1",
    ),
    (
        "item and orders made old ones",
        "UPDATE items SET mac = NULL, mac_from = 1000 WHERE id = 'line';
         UPDATE orders SET seal = zeroblob(8), user = 'eve' WHERE user = 'ivy';
         UPDATE counts SET old_items = 1",
    ),
    (
        "everything made old",
        "UPDATE items SET mac = NULL, mac_from = arrivals + 1; UPDATE dead_letters SET mac = NULL;
         UPDATE orders SET seal = zeroblob(8) WHERE state < 20;
         UPDATE counts SET mac = NULL, old_letters = letters,
            old_items = (SELECT count(*) FROM items)",
    ),
    // The store's counts.
    ("counts accepted", "UPDATE counts SET accepted = accepted + 1"),
    ("counts decided", "UPDATE counts SET decided = decided - 1"),
    ("counts dead", "UPDATE counts SET dead_lettered = 0"),
    ("counts writes", "UPDATE counts SET writes = writes + 1"),
    ("counts letters", "UPDATE counts SET letters = 0"),
    ("counts old_items", "UPDATE counts SET old_items = 1"),
    ("counts old_letters", "UPDATE counts SET old_letters = 1"),
    ("counts mac", "UPDATE counts SET mac = randomblob(8)"),
    ("counts without a mac", "UPDATE counts SET mac = NULL"),
    ("counts deleted", "DELETE FROM counts"),
    ("counts twice", "INSERT INTO counts SELECT * FROM counts"),
    ("counts of before", "DELETE FROM counts; INSERT INTO counts SELECT * FROM before.counts"),
    ("decisions more", "UPDATE decisions SET orders = orders + 1 WHERE state = 20"),
    (
        "decisions shifted",
        "UPDATE decisions SET orders = orders + 1 WHERE state = 20;
         UPDATE decisions SET orders = orders - 1 WHERE state = 22",
    ),
    ("decisions deleted", "DELETE FROM decisions WHERE state = 22"),
    ("decisions slipped in", "INSERT INTO decisions VALUES (77, 0)"),
    // Dead letters.
    ("letter reason", "UPDATE dead_letters SET reason = 'because'"),
    ("letter body", "UPDATE dead_letters SET body = replace(body, 'fay', 'eve')"),
    ("letter at", "UPDATE dead_letters SET at = at - 1"),
    ("letter order", "UPDATE dead_letters SET order_id = randomblob(16)"),
    ("letter without a mac", "UPDATE dead_letters SET mac = NULL"),
    ("letter deleted", "DELETE FROM dead_letters"),
    (
        "letter slipped in",
        "INSERT INTO dead_letters SELECT randomblob(16), reason, body, at, mac FROM dead_letters",
    ),
    // The key, and what is in the schema.
    ("order_key", "UPDATE meta SET value = randomblob(16) WHERE key = 'order_key'"),
    ("order_key deleted", "DELETE FROM meta WHERE key = 'order_key'"),
    (
        "trigger",
        "CREATE TRIGGER gift AFTER UPDATE OF state ON orders BEGIN
            UPDATE orders SET user = 'eve' WHERE place = new.place; END",
    ),
    (
        "trigger under flux's name",
        "CREATE TRIGGER webhooks_put AFTER INSERT ON orders BEGIN DELETE FROM meta; END",
    ),
    ("view", "CREATE VIEW sold AS SELECT * FROM orders WHERE state = 20"),
    (
        "table behind a view",
        "ALTER TABLE dead_letters RENAME TO hidden;
         CREATE VIEW dead_letters AS SELECT * FROM hidden",
    ),
    ("index dropped", "DROP INDEX order_ids"),
    (
        "index changed",
        "DROP INDEX order_ids; CREATE UNIQUE INDEX order_ids ON orders (id) WHERE state = 10",
    ),
    // Rows of an earlier time.
    (
        "order of before",
        "INSERT OR REPLACE INTO orders SELECT * FROM before.orders WHERE user = 'kim'",
    ),
    (
        "order and item of before",
        "INSERT OR REPLACE INTO orders SELECT * FROM before.orders WHERE user = 'kim';
         UPDATE items SET (free, sold, version, arrivals, decided, dead, mac) =
            (SELECT free, sold, version, arrivals, decided, dead, mac FROM before.items AS b
             WHERE b.id = items.id) WHERE id = 'line'",
    ),
    (
        "item of before with all of its orders",
        "DELETE FROM orders WHERE place >> 32 = (SELECT no FROM items WHERE id = 'out');
         INSERT INTO orders SELECT * FROM before.orders
            WHERE place >> 32 = (SELECT no FROM items WHERE id = 'out');
         DELETE FROM items WHERE id = 'out';
         INSERT INTO items SELECT * FROM before.items WHERE id = 'out'",
    ),
    (
        "item of before with its orders and the counts adapted",
        "DELETE FROM orders WHERE place >> 32 = (SELECT no FROM items WHERE id = 'single');
         INSERT INTO orders SELECT * FROM before.orders
            WHERE place >> 32 = (SELECT no FROM items WHERE id = 'single');
         DELETE FROM items WHERE id = 'single';
         INSERT INTO items SELECT * FROM before.items WHERE id = 'single';
         UPDATE counts SET accepted = accepted - 1, decided = decided - 1, writes = writes - 1;
         UPDATE decisions SET orders = orders - 1 WHERE state = 21",
    ),
    (
        "close of before",
        "DELETE FROM items WHERE id = 'line'; INSERT INTO items SELECT * FROM before.items
            WHERE id = 'line'",
    ),
    // Rows of another sale.
    (
        "item of another sale",
        "DELETE FROM items WHERE id = 'part';
         INSERT INTO items SELECT * FROM other.items WHERE id = 'part'",
    ),
    (
        "orders of another sale",
        "DELETE FROM orders WHERE place >> 32 = (SELECT no FROM items WHERE id = 'part');
         INSERT INTO orders SELECT * FROM other.orders
            WHERE place >> 32 = (SELECT no FROM items WHERE id = 'part')",
    ),
    (
        "all rows of another sale",
        "DELETE FROM orders; INSERT INTO orders SELECT * FROM other.orders;
         DELETE FROM items; INSERT INTO items SELECT * FROM other.items;
         DELETE FROM counts; INSERT INTO counts SELECT * FROM other.counts;
         DELETE FROM decisions; INSERT INTO decisions SELECT * FROM other.decisions;
         DELETE FROM dead_letters; INSERT INTO dead_letters SELECT * FROM other.dead_letters",
    ),
];

/// Changes that are not found: of what nothing depends on, and by principle.
pub const NOT_FOUND: &[(&str, &str)] = &[
    ("a claim", "UPDATE items SET claimed_by = 7, claimed_until = 9"),
    ("a lock", "INSERT INTO locks VALUES ('part', x'00', 1, 1, 1)"),
    ("an unused table", "CREATE TABLE notes (text)"),
    (
        "the whole file of before",
        "DELETE FROM orders; INSERT INTO orders SELECT * FROM before.orders;
         DELETE FROM items; INSERT INTO items SELECT * FROM before.items;
         DELETE FROM counts; INSERT INTO counts SELECT * FROM before.counts;
         DELETE FROM decisions; INSERT INTO decisions SELECT * FROM before.decisions;
         DELETE FROM dead_letters; INSERT INTO dead_letters SELECT * FROM before.dead_letters",
    ),
];
