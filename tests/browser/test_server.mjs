// Runs the real flux and a real browser, and checks what holds for every page.

import assert from "node:assert/strict";
import { spawn, execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import http from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

/** Set by scripts/test-browser. */
const { FLUX, CHROMIUM, BROWSER_MODULES, BROWSER_SHOTS } = process.env;
const installed = createRequire(`${BROWSER_MODULES}/`);
const { chromium } = installed("playwright-core");
const AXE = readFileSync(installed.resolve("axe-core/axe.min.js"), "utf8");

export const ADMIN_KEY = "the-admins-own-key";
/** Maximum wait for any expected state, for busy machines. */
export const PATIENCE_MS = 60_000;

/** A running `flux serve`, with its own store in its own directory. */
export class TestServer {
  /** Starts a server that is closed when the test `t` ends. */
  static async start(t, { workers = 4, environment = {}, items = {} } = {}) {
    const server = new TestServer();
    t.after(() => server.close());
    server.directory = mkdtempSync(join(tmpdir(), "flux-browser-"));
    server.environment = { FLUX_ADMIN_KEY: ADMIN_KEY, ...environment };
    await server.start(workers);
    for (const [item, stock] of Object.entries(items)) await server.list(item, stock);
    return server;
  }

  async start(workers, listen = "127.0.0.1:0") {
    const { PATH } = process.env;
    this.process = spawn(FLUX, ["serve", "--listen", listen, "--workers", String(workers)], {
      cwd: this.directory, env: { PATH, ...this.environment }, stdio: ["ignore", "ignore", "pipe"],
    });
    const log = [];
    const listening = new Promise((resolve, reject) => {
      createInterface({ input: this.process.stderr }).on("line", (line) => {
        log.push(line);
        const found = line.match(/listening on http:\/\/(\S+)/);
        if (found) resolve(found[1]);
      });
      this.process.once("exit", () => reject(new Error(`flux ended: ${log.join("\n")}`)));
    });
    this.address = await listening;
    this.url = `http://${this.address}`;
  }

  /** Ends the process in order. */
  async end() {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const ended = new Promise((resolve) => this.process.once("exit", resolve));
    this.process.kill("SIGTERM");
    await ended;
  }

  async close() {
    await this.end();
    rmSync(this.directory, { recursive: true });
  }

  list(item, stock) {
    return this.ask("PUT", `/items/${encodeURIComponent(item)}`, { stock });
  }

  async ask(method, path, body) {
    const headers = { "Content-Type": "application/json", Authorization: `Bearer ${ADMIN_KEY}` };
    const answer = await fetch(this.url + path, { method, headers, body: body && JSON.stringify(body) });
    assert.ok(answer.ok, `${method} ${path}: ${answer.status}`);
    return answer.json();
  }

  /** Sends `count` orders, at most `atOnce` concurrently; `order(n)` is the n-th body. */
  async rush(count, order, atOnce = 32) {
    const agent = new http.Agent({ keepAlive: true, maxSockets: atOnce });
    let next = 0;
    const one = (body) => new Promise((resolve, reject) => {
      const headers = { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body) };
      const sent = http.request(`${this.url}/buy`, { method: "POST", agent, headers }, (answer) => {
        answer.resume().on("end", () => resolve(answer.statusCode));
      });
      sent.on("error", reject).end(body);
    });
    const buyer = async () => {
      while (next < count) {
        const n = next;
        next += 1;
        assert.equal(await one(JSON.stringify(order(n))), 202);
      }
    };
    await Promise.all(Array.from({ length: atOnce }, buyer));
    agent.destroy();
  }

  /** Starts a proxy that serves this server below a path and removes that path; returns its `url`. */
  async behind(t, prefix) {
    const { port } = new URL(this.url);
    const proxy = http.createServer((asked, answer) => {
      const { method, headers, url } = asked;
      if (!url.startsWith(`${prefix}/`)) return answer.writeHead(502).end();
      const path = url.slice(prefix.length);
      const passed = http.request({ host: "127.0.0.1", port, method, headers, path }, (got) => {
        answer.writeHead(got.statusCode, got.headers);
        got.pipe(answer);
      });
      passed.on("error", () => answer.destroy());
      answer.on("close", () => passed.destroy());
      asked.pipe(passed);
    });
    await new Promise((listening) => proxy.listen(0, "127.0.0.1", listening));
    t.after(() => {
      proxy.closeAllConnections();
      proxy.close();
    });
    return { url: `http://127.0.0.1:${proxy.address().port}${prefix}` };
  }

  /** Changes rows of the store while no process has it open. */
  tamper(sql) {
    const script = "import sqlite3, sys; c = sqlite3.connect('flux.db'); c.execute(sys.argv[1]); c.commit()";
    execFileSync("python3", ["-c", script, sql], { cwd: this.directory });
  }
}

/** One browser for a file of tests. */
export async function launch() {
  return chromium.launch({
    executablePath: CHROMIUM,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync"],
  });
}

/**
 * Opens a page in a new context. `routes` replace responses of the server. Records errors in
 * `page.faults` and requests to other servers in `page.strangers`.
 */
export async function visit(browser, server, path, { routes = {}, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  page.faults = [];
  page.strangers = [];
  page.on("console", (said) => {
    if (["error", "warning"].includes(said.type())) page.faults.push(said.text());
  });
  page.on("pageerror", (error) => page.faults.push(String(error)));
  page.on("request", (request) => {
    if (!request.url().startsWith(server.url) && !request.url().startsWith("data:")) page.strangers.push(request.url());
  });
  for (const [url, answer] of Object.entries(routes)) await page.route(url, answer);
  await page.goto(server.url + path);
  return page;
}

/** Checks that the page had no unexpected errors and no requests to other servers, then closes it. */
export async function leave(page, { faults = [] } = {}) {
  const unexpected = page.faults.filter((fault) => !faults.some((known) => known.test(fault)));
  assert.deepEqual(unexpected, [], "errors on the console");
  assert.deepEqual(page.strangers, [], "requests to others");
  await page.context().close();
}

/** Waits until the text of an element matches. */
export async function says(page, selector, what) {
  await page.waitForFunction(
    ([selector, source]) => new RegExp(source).test(document.querySelector(selector)?.textContent ?? ""),
    [selector, what.source ?? what],
  );
}

/** Checks that axe-core finds no violation of WCAG 2.2 A and AA and of its best practices. */
export async function isAccessible(page, what) {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).slice(0, 3).join(" ")}`);
  assert.deepEqual(found, [], what);
}

export async function fitsItsWidth(page) {
  const [content, width] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(content <= width, `${content} px in ${width}`);
}

/** Takes a screenshot if BROWSER_SHOTS is set. */

export async function shoot(page, name) {
  if (BROWSER_SHOTS) await page.screenshot({ path: join(BROWSER_SHOTS, `${name}.png`), fullPage: true });
}
