"""What a run on photographs shows people: pictures, lists of mistakes, the page `report.html`."""
