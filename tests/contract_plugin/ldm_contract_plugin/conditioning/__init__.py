"""Parts that use the doors of conditioning: tokens that join by width, named sets, drawn noise, picture sizes."""
