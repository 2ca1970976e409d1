// Requests to the server that the page came from.

const key = document.querySelector('meta[name="kibitz-key"]').content;

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Kibitz-Key": key },
    body: JSON.stringify(body),
  };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Refused("The server does not answer. Is the command still running?", 0);
  }
  const text = await answer.text();
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Refused(text.trim() || `The server answered ${answer.status}.`, answer.status);
  }
  if (!answer.ok) throw new Refused(value.error ?? `The server answered ${answer.status}.`, answer.status);
  return value;
}
