// Requests to the studio, one at a time for each purpose: a newer one gives up the older, which then stops computing.

class Asker {
  constructor(address) {
    this.address = address;
    this.running = null;
  }

  // The answer, or null where a newer question has been asked meanwhile. Refusals are errors with the studio's words.
  async ask(wish) {
    if (this.running) this.running.abort();
    const mine = (this.running = new AbortController());
    let answer;
    try {
      const response = await fetch(this.address, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(wish),
        signal: mine.signal,
      });
      answer = await response.json();
    } catch (error) {
      if (mine.signal.aborted) return null;
      throw new Error("The studio does not answer. It may have been closed.");
    }
    if (mine.signal.aborted) return null;
    if (answer.error) throw new Error(answer.error);
    return answer;
  }
}

// Calls a function once nothing has happened for a little while.
function settled(action, wait) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, wait);
  };
}

// Options of a list, by text; what was chosen stays chosen where it still can be.
function offer(select, texts, chosen) {
  select.replaceChildren(
    ...texts.map(([value, text]) => {
      const option = document.createElement("option");
      option.value = value;
      option.textContent = text;
      return option;
    }),
  );
  select.value = chosen;
}
