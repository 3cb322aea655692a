// The buyer's page.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { TestServer, fitsItsWidth, isAccessible, launch, leave, says, shoot, visit } from "./test_server.mjs";

let browser;
before(async () => (browser = await launch()));
after(() => browser.close());

async function buy(page, user, quantity = 1) {
  await page.getByLabel("Your name").fill(user);
  await page.getByLabel("How many").fill(String(quantity));
  await page.getByRole("button", { name: "Buy" }).click();
}

test("one buyer buys the item, and it is sold out for the next", async (t) => {
  const server = await TestServer.start(t, { items: { hall_A: 2 } });
  const first = await visit(browser, server, "/buy/hall_A");
  await says(first, "#left", "2 of 2 left");
  await isAccessible(first, "the form");
  await buy(first, "Zoë", 2);
  await says(first, "#state", "It is yours");
  await says(first, "#words", "You bought 2 units of hall_A");
  assert.equal(await first.textContent("#slip-user"), "Zoë");
  assert.equal(await first.evaluate(() => document.activeElement.id), "state", "the changed title has the focus");
  await isAccessible(first, "sold");
  await shoot(first, "buy-sold");
  await leave(first);

  const second = await visit(browser, server, "/buy/hall_A", { colorScheme: "dark" });
  await buy(second, "Tanisha");
  await says(second, "#state", "Sold out");
  await isAccessible(second, "sold out, dark");
  await shoot(second, "buy-sold-out");
  await second.getByRole("button", { name: "Place another order" }).click();
  await says(second, "#buy", "Try to buy anyway");
  assert.equal(await second.getByLabel("Your name").inputValue(), "Tanisha");
  await leave(second);
});

test("both pages work below a path of a proxy", async (t) => {
  const server = await TestServer.start(t, { items: { hall_A: 1 } });
  const below = await server.behind(t, "/flux");
  const buyer = await visit(browser, below, "/buy/hall_A");
  await buy(buyer, "Zoë");
  await says(buyer, "#state", "It is yours");
  await leave(buyer);
  const organiser = await visit(browser, below, "/");
  await says(organiser, "#sold-units", "^1$");
  await says(organiser, "#decisions", "Zoë");
  await leave(organiser);
});

test("a reload keeps the place in line", async (t) => {
  const server = await TestServer.start(t, { workers: 0, items: { hall_A: 3 } });
  await server.rush(2, (n) => ({ user_id: `u${n}`, item_id: "hall_A" }));
  const page = await visit(browser, server, "/buy/hall_A", { viewport: { width: 320, height: 640 } });
  await buy(page, "ann");
  await says(page, "#state", "You are in line");
  await says(page, "#place", "^3$");
  await says(page, "#wait", "unknown");
  await fitsItsWidth(page);
  await isAccessible(page, "in line");
  await shoot(page, "buy-in-line");
  await page.reload();
  await says(page, "#place", "^3$");
  assert.equal((await server.ask("GET", "/stats")).accepted, 3, "a reload sends no second order");
  // The server stops and starts again with a worker; the page reconnects to its order.
  const { address } = server;
  await server.end();
  await says(page, "#trouble", "Trying again");
  await server.start(4, address);
  await says(page, "#state", "It is yours");
  assert.equal((await server.ask("GET", "/items/hall_A")).sold, 3);
  await leave(page, { faults: [/net::ERR_/] });
});

test("the page shows a dropped order without a reload", async (t) => {
  const server = await TestServer.start(t, { workers: 0, items: { hall_A: 3 } });
  const page = await visit(browser, server, "/buy/hall_A");
  await buy(page, "ann");
  await says(page, "#state", "You are next");
  const { address } = server;
  await server.end();
  server.tamper("UPDATE orders SET quantity = 500");
  await server.start(4, address);
  await says(page, "#state", "The seller must review it");
  await server.ask("POST", "/dead-letters/drop", { all: true });
  await says(page, "#state", "Dropped by the seller");
  await says(page, "#words", "Nothing was sold to you");
  await isAccessible(page, "dropped");
  await page.getByRole("button", { name: "Place another order" }).waitFor();
  await leave(page, { faults: [/net::ERR_/] });
});

test("a double press, lost answers, 503 and 429 are one order", async (t) => {
  const server = await TestServer.start(t, { items: { hall_A: 9 } });
  const page = await visit(browser, server, "/buy/hall_A");
  const keys = [];
  await page.route("**/buy", async (route) => {
    keys.push(route.request().headers()["idempotency-key"]);
    const busy = { headers: { "Retry-After": "0" }, contentType: "application/problem+json", body: "{}" };
    if (keys.length === 1) return route.fulfill({ status: 503, ...busy });
    if (keys.length === 2) return route.fulfill({ status: 429, ...busy });
    if (keys.length === 3) {
      await route.fetch();
      return route.abort();
    }
    return route.continue();
  });
  await page.getByLabel("Your name").fill("ann");
  await page.getByRole("button", { name: "Buy" }).dblclick();
  await says(page, "#state", "It is yours");
  assert.equal(keys.length, 4);
  assert.equal(new Set(keys).size, 1, "always the same Idempotency-Key");
  assert.equal((await server.ask("GET", "/items/hall_A")).sold, 1);
  await leave(page, { faults: [/Failed to load resource/] });
});

test("without an event stream the page polls", async (t) => {
  const server = await TestServer.start(t, { items: { hall_A: 9 } });
  const page = await visit(browser, server, "/buy/hall_A");
  await page.route("**/events", (route) => route.fulfill({ status: 503, body: "{}" }));
  await buy(page, "ann");
  await says(page, "#state", "It is yours");
  await leave(page, { faults: [/Failed to load resource/] });
});

test("a refused order can be sent again", async (t) => {
  const server = await TestServer.start(t, { environment: { FLUX_UNLISTED_STOCK: "0" }, items: { hall_A: 1 } });
  const page = await visit(browser, server, "/buy/hall_B");
  await buy(page, "ann");
  await says(page, "#refused", "Item not found");
  await isAccessible(page, "refused");
  await server.list("hall_B", 1);
  await page.getByRole("button", { name: "Buy" }).click();
  await says(page, "#state", "It is yours");
  await leave(page, { faults: [/Failed to load resource/] });
});

test("with keys on, a token comes from the address or from its field", async (t) => {
  const server = await TestServer.start(t, { environment: { FLUX_BUY_KEY: "a-key-of-the-shop" }, items: { hall_A: 9 } });
  const invited = await visit(browser, server, "/buy/hall_A#token=a-key-of-the-shop");
  assert.equal(new URL(invited.url()).hash, "", "the token does not stay in the address");
  await buy(invited, "ann");
  await says(invited, "#state", "It is yours");
  await leave(invited);

  const stranger = await visit(browser, server, "/buy/hall_A");
  await buy(stranger, "bob");
  await says(stranger, "#refused", "key");
  await stranger.getByLabel("Access token").fill("a-key-of-the-shop");
  await stranger.getByRole("button", { name: "Buy" }).click();
  await says(stranger, "#state", "It is yours");
  await leave(stranger, { faults: [/Failed to load resource.*40/] });
});

test("without JavaScript the page explains what it needs", async (t) => {
  const server = await TestServer.start(t);
  for (const path of ["/buy/hall_A"]) {
    const page = await visit(browser, server, path, { javaScriptEnabled: false });
    assert.match(await page.innerText("body"), /needs JavaScript/);
    await leave(page);
  }
});
