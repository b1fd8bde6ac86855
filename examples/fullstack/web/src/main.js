const answer = await fetch("/tide?hours=3");
document.querySelector("#tides").textContent = `${(await answer.json()).height} m`;
