"""Running trained networks: named arrays in, named arrays out, by whichever engine works here."""
